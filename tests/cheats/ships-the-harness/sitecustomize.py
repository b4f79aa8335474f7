print("verdict: PASS")

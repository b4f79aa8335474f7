"""What a run leaves behind for those who were not there: the ledger and the record."""

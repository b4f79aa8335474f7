"""The contest's data on a Hugging Face hub: the one module that needs the network and `huggingface_hub`.

The library brings the address of the hub (HF_ENDPOINT), access tokens, redirects, and tries again when a connection
fails. Its own download functions begin a file anew in every process; its `http_get` goes on where a file ends.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.file_download import http_get
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import HFValidationError, build_hf_headers, httpx, logging

from harness.data.collect import Found
from harness.data.manifest import MANIFEST_NAME
from harness.data.published import WantedFile
from harness.errors import EnvironmentMissing, InputError

ROOT = "datasets"  # folder of the repository that holds the published tree
PATHS_AT_ONCE = 100


class HubOrigin:
    """A dataset repository, as it is at one commit."""

    can_resume = True

    def __init__(self, repository: str, endpoint: str | None = None) -> None:
        """Ask the hub, at `endpoint` if that is not the library's, for the newest commit. Raises InputError if there is
        no such repository, EnvironmentMissing if the hub cannot be asked."""
        constants.HF_HUB_DISABLE_TELEMETRY = True  # or it asks which programs to look for here, and reports them
        logging.set_verbosity_error()  # it tries again by itself; what it cannot help is raised
        self._repository = repository
        self._api = HfApi(endpoint=endpoint)
        self._headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        with self._faults():
            self._commit = self._api.dataset_info(repository, timeout=60).sha
        self.description = f"dataset {repository} at commit {self._commit}"

    def manifest(self) -> bytes:
        """The published manifest."""
        content = io.BytesIO()
        with self._faults():
            self._get(MANIFEST_NAME, content)
        return content.getvalue()

    def look_up(self, files: Sequence[WantedFile]) -> list[Found]:
        """Size of each file, and the sha256 of those that the hub keeps by it (all that are large)."""
        paths = [f"{ROOT}/{file.path}" for file in files]
        known: dict[str, RepoFile] = {}
        with self._faults():
            for begin in range(0, len(paths), PATHS_AT_ONCE):
                some = paths[begin : begin + PATHS_AT_ONCE]
                found = self._api.get_paths_info(self._repository, some, revision=self._commit, repo_type="dataset")
                known |= {entry.path: entry for entry in found if isinstance(entry, RepoFile)}
        if missing := [path for path in paths if path not in known]:
            raise InputError(
                f"{self._repository} has no {missing[0]}, which its {MANIFEST_NAME} counts; ask for fewer "
                "--train-shards, or ask who publishes it"
            )
        entries = [known[path] for path in paths]
        return [Found(size=entry.size, sha256=entry.lfs.sha256 if entry.lfs else None) for entry in entries]

    def bring(self, file: WantedFile, found: Found, to: Path, at: Callable[[int], None]) -> None:
        """Download the file, or what `to` lacks of it."""

        class Bar:
            """What the library takes for its own progress bar."""

            def __init__(self, *, initial: int = 0, **_: object) -> None:
                self._done = initial

            def __enter__(self) -> Bar:
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def update(self, count: int) -> None:
                self._done += count
                at(self._done)

        with self._faults(file.path), to.open("ab") as partial:
            if partial.tell() > found.size:  # not by this code
                partial.truncate(0)
            self._get(file.path, partial, resume_size=partial.tell(), expected_size=found.size, tqdm_class=Bar)

    def _get(self, path: str, file: io.BufferedIOBase, **options: object) -> None:
        url = hf_hub_url(
            self._repository,
            f"{ROOT}/{path}",
            repo_type="dataset",
            revision=self._commit,
            endpoint=self._api.endpoint,
        )
        http_get(url, file, headers=self._headers, **options)

    @contextmanager
    def _faults(self, path: str = "") -> Iterator[None]:
        """The library's errors, in one line each."""
        hub, again = self._api.endpoint, "run this again: it goes on where it stopped"
        try:
            yield
        except (RepositoryNotFoundError, HFValidationError) as error:
            raise InputError(
                f"{self._repository}: no such dataset on {hub}, or only for people with a token that may read it"
            ) from error
        except EntryNotFoundError as error:
            raise InputError(f"{self._repository} has no {ROOT}/{path or MANIFEST_NAME}") from error
        except OfflineModeIsEnabled as error:
            raise EnvironmentMissing(f"{hub} may not be asked: HF_HUB_OFFLINE is set") from error
        except HfHubHTTPError as error:
            raise EnvironmentMissing(f"{path or hub}: the hub answers {error.response.status_code}; {again}") from error
        except httpx.HTTPError as error:
            raise EnvironmentMissing(f"{path or hub}: {_first_line(error)}; {again}") from error
        except OSError as error:
            if error.errno is not None:  # of this machine: a full disk, for example
                raise
            raise EnvironmentMissing(f"{path or hub}: {_first_line(error)}; {again}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise EnvironmentMissing(f"{hub} does not answer as a hub does; look at HF_ENDPOINT") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__

"""From a folder to a repository of the Hub, by one commit that holds everything."""

import re
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo, constants, get_token

from modalities.common.hub import patience
from modalities.common.hub_errors import Unreachable, hub_errors
from modalities.common.stored import INDEX
from trainer.errors import CheckpointError, ConfigError, UnknownNameError

REPLACED = re.compile(rf"config\.json|preprocessor_config\.json|model(-\d+-of-\d+)?\.safetensors|{re.escape(INDEX)}")
"""Files of an earlier publication that go when the new one has none of that name: loading would mix the two."""


def check_repository(repo: str, private: bool) -> ModelInfo | None:
    """What the Hub has under this name now, or None. Raises when it cannot be reached or nobody is logged in."""
    if constants.HF_HUB_OFFLINE:
        raise CheckpointError("HF_HUB_OFFLINE is set, so nothing can be published to the Hub. Unset it, or publish with --to FOLDER.")
    if not get_token():
        raise CheckpointError(f"Publishing to {constants.ENDPOINT} needs a token with write access: `hf auth login`, or set HF_TOKEN.")
    try:
        with hub_errors(repo, timeout=patience()):
            existing = HfApi().model_info(repo, timeout=patience())
    except UnknownNameError:
        return None
    except Unreachable as error:
        raise CheckpointError(f"{error}. Nothing was sent.") from error
    if private and not existing.private:
        raise ConfigError(f"{repo} exists and can be seen by all. Make it private at {constants.ENDPOINT}/{repo}/settings, or leave --private out.")
    return existing


def upload(folder: Path, repo: str, private: bool, existing: ModelInfo | None) -> str:
    """Replace what the repository publishes by the files of a folder, in one commit; returns its id.

    Nothing is visible before that commit, so a stopped upload is repeated by the same command. Another person's commit
    since `existing` was asked for is not overwritten: the Hub refuses then.
    """
    names = {path.name for path in folder.iterdir()}
    old = {s.rfilename for s in (existing.siblings or [])} if existing else set()
    gone = sorted(name for name in old - names if REPLACED.fullmatch(name))
    operations = [CommitOperationAdd(name, str(folder / name)) for name in sorted(names)]
    operations += [CommitOperationDelete(name) for name in gone]
    api = HfApi()
    try:
        with hub_errors(repo):
            if existing is None:
                api.create_repo(repo, private=private or None)
            made = api.create_commit(
                repo, operations, commit_message="Publish with modality-zoo", parent_commit=existing.sha if existing else None
            )
    except Unreachable as error:
        raise CheckpointError(f"{error} while {repo} was uploaded. Nothing of it is visible; the same command starts it again.") from error
    return made.oid

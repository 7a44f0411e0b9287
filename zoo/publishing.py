"""Publishing: what a run made, checked as a stranger would use it, then to a folder or in one commit to the Hub."""

import logging
import shutil
import tempfile
from pathlib import Path

import tyro

from modalities.common import hub, pretrained
from modalities.common.model import Model
from modalities.common.stored import CONFIG, require_place
from trainer.errors import CheckpointError, ConfigError
from trainer.files import atomic_folder, carry_over, read_json, sha256_of
from zoo.cards import CARD, FOLDER, LOADS, PICTURES, Files, card_of, check_card, pictures_in, read_origin, write_card
from zoo.rehearsal import fingerprint, rehearse
from zoo.uploading import REPLACED, check_repository, fetch_card, upload

log = logging.getLogger("zoo")


def publish(
    source: tyro.conf.Positional[Path], /, to: Path | None = None, repo: str | None = None, private: bool = False, dry_run: bool = False
) -> str | None:
    """Publish a model with its card to a folder, to the Hub, or to both.

    Checked first: the weights are finite and load strictly, the card is valid for the Hub, and in a new process its snippet runs
    and the model gives the same output. A folder appears complete or not at all, a repository changes by one commit, and
    what was written is read back (from the Hub: downloaded) and compared. Returns the id of the commit on the Hub.

    Args:
        source: Folder of a finished run, or of a model with its card in README.md.
        to: Folder to write: new, empty, or an earlier publication, which is replaced.
        repo: Repository on the Hub, namespace/name. It is made when it does not exist.
        private: Only you can see the new repository.
        dry_run: Check everything, say what would be published, send and write nothing.
    """
    if to is None and repo is None:
        raise ConfigError("Say where to publish: --repo NAMESPACE/NAME (the Hub), --to FOLDER, or both.")
    if private and repo is None:
        raise ConfigError("--private is for a repository on the Hub. Give --repo NAMESPACE/NAME too.")
    if repo is not None and hub.hub_id(repo) != (repo, None):
        raise ConfigError(f"{repo!r} is no name for a repository on the Hub. Expected namespace/name, as in me/my-model.")
    existing = check_repository(repo, private) if repo is not None and not dry_run else None
    with tempfile.TemporaryDirectory(prefix="zoo-publish-") as scratch:
        place = Path(scratch) / "model"
        cards = [to / CARD] if to is not None else []
        if existing is not None:
            cards += fetch_card(existing, Path(scratch) / "card")
        model, result = _prepare(source, place, repo or FOLDER, cards)
        size = sum(p.stat().st_size for p in place.iterdir()) / 1e6
        if dry_run:
            for path in sorted(place.iterdir()):
                print(f"{path.stat().st_size:>13,}  {path.name}")
            targets = ([f"{repo} ({'private' if private else 'public'})"] if repo else []) + ([str(to)] if to else [])
            print(f"{model.name} is ready: {size:.1f} MB for {' and '.join(targets)}. Nothing was sent or written.")
            return None
        if to is not None:
            _write(place, to)
            log.info("Published %s to %s (%.1f MB). Load it with zoo.from_pretrained(%r).", model.name, to, size, str(to))
        if repo is None:
            return None
        commit = upload(place, repo, private, existing)
        _check_download(place, repo, commit, result, Path(scratch) / "cache")
        log.info("Published %s to %s (%.1f MB, commit %s). Load it with zoo.from_pretrained(%r).", model.name, repo, size, commit[:12], repo)
        return commit


def publish_as(run: Path, to: Path, where: str) -> None:
    """Publish a run to a folder whose card loads it by the name under which it is registered."""
    with tempfile.TemporaryDirectory(prefix="zoo-publish-") as scratch:
        place = Path(scratch) / "model"
        _prepare(run, place, where, [to / CARD])
        _write(place, to)


def _prepare(source: Path, place: Path, where: str, cards: list[Path]) -> tuple[Model, str]:
    """Write what is to be published to `place` and rehearse its use: (model, fingerprint of an output). `cards` are those that are replaced."""
    model, card, files = _gather(source, where, cards)
    model.save_pretrained(place, card=card, files=files)
    return model, rehearse(model, place, card)


def _write(place: Path, to: Path) -> None:
    """Put the same files into the folder that was asked for, beside other files of its owner, and read them back."""
    require_place(to)
    with atomic_folder(to, replace=True) as folder:
        shutil.copytree(place, folder, dirs_exist_ok=True)
        carry_over(to, folder, lambda name: REPLACED.fullmatch(name) is not None)
    _compare(place, to, f"What was written to {to}")


def _gather(source: Path, where: str, cards: list[Path]) -> tuple[Model, str, Files]:
    """The model to publish, its card, and the files beside it. `where` is what the card's snippet loads."""
    if (source / CONFIG).exists() and (source / CARD).exists():
        model, origin = pretrained.load(source), read_origin(source)
        if origin is not None:
            pictures = {name: source / name for name in PICTURES if (source / name).is_file()}
            card, files = card_of(model, origin, where, pictures, [*cards, source / CARD])
        else:
            card = LOADS.sub(lambda _: where, (source / CARD).read_text(encoding="utf-8"))
            check_card(card, str(source))
            files = {name: source / name for name in pictures_in(card) if (source / name).is_file()}
    elif (source / "record.json").exists():
        model = pretrained.load(source / "export")
        card, files = write_card(model, read_json(source / "record.json"), source, where, cards)
    elif (source / "recipe.yaml").exists():
        raise CheckpointError(f"{source} has no record.json. The run is not finished: start it again with --resume.")
    else:
        raise CheckpointError(f"{source} has no record.json. Expected the folder of a run (zoo pretrain, zoo finetune), or of a model with config.json and README.md.")
    if model.preprocess is None:
        raise CheckpointError(f"The model in {source} has no preprocessing, so nobody could use it on files. Save it with model.preprocess set.")
    return model, card, files


def _compare(ours: Path, theirs: Path, what: str) -> None:
    """Raise CheckpointError unless the second folder holds every file of the first."""
    wrong = [p.name for p in sorted(ours.iterdir()) if not (theirs / p.name).is_file() or sha256_of(theirs / p.name) != sha256_of(p)]
    if wrong:
        raise CheckpointError(f"{what} does not read back as it was ({', '.join(wrong)} differ). Publish again; if it stays so, check the disk.")


def _check_download(place: Path, repo: str, commit: str, expected: str, cache: Path) -> None:
    """Download what was published into an empty cache, compare every file and one output."""
    snapshot = hub.fetch(repo, commit, cache)
    _compare(place, snapshot.folder, f"What {repo} holds at commit {commit}")
    if fingerprint(pretrained.load(snapshot.folder)) != expected:
        raise CheckpointError(f"{repo} at commit {commit} gives another output than the model here. Publish it again.")

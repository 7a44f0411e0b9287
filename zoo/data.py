"""`zoo pack` and `zoo data`: tars with an index out of any format, everything read once, a summary with pictures."""

import importlib
import statistics
from collections import Counter
from pathlib import Path

import tyro

from modalities import registry
from trainer.corrupt import read_quarantine, write_quarantine
from trainer.errors import ConfigError, DataError, did_you_mean
from trainer.files import read_json
from trainer.packing import PackConfig, RawData, Seen
from trainer.packing import check as check_samples
from trainer.packing import pack as pack_samples
from trainer.shards import INDEX

SHOWN = 20
"""Problems that are printed; the list has all."""
LOOKED_AT = 64
"""Samples that `show` decodes."""
DRAWN = 32
"""Samples on a contact sheet."""


def pack(
    data: tyro.conf.Positional[str], /, to: Path, modality: str | None = None, unlabelled: bool = False, exclude: Path | None = None,
    resize: int | None = None, layout: tyro.conf.OmitArgPrefixes[PackConfig] = PackConfig(),
) -> Path:  # fmt: skip
    """Pack data of any format into tars with an index, which are quick to copy and to read from a network.

    Files are copied as they are, but folders of frames become video files. A folder with `train` and `val` gives both as sub-folders. After a stop, the same
    command goes on.

    Args:
        data: Folder, tars or URL; see docs/data.md.
        to: Folder for the tars: new, or one in which the same command was stopped.
        modality: Which kind of data it is. Default: what an index says, else the first whose files are there (folders of images are images).
        unlabelled: Sub-folders are no classes.
        exclude: List of samples to leave out, as `zoo data check` writes it.
        resize: Encode videos again, the shorter side of their frames so many pixels at most, so that clips are quick to read.
    """
    parts = _parts(data, modality, labelled=not unlabelled)
    listed = read_quarantine(exclude) if exclude else set()
    if resize is not None:
        parts = {part: _resized(raw, resize) for part, raw in parts.items()}
    for part, raw in parts.items():
        mine = {name.removeprefix(f"{part}/") for name in listed if name.startswith(f"{part}/")} if part else listed
        place = pack_samples(raw, to / part, layout, mine)
        index = read_json(place / INDEX)
        classes = f" of {len(raw.classes)} classes" if raw.classes else ""
        print(f"{place}: {index['samples']:,} samples{classes} in {len(index['shards'])} shards, {_size(index['bytes'])}")
    return to


def check(path: tyro.conf.Positional[str], /, modality: str | None = None, workers: int = 4, to: Path | None = None) -> None:
    """Read and decode all samples, say what is wrong with which, and list those for `--data.exclude`.

    The exit status is 1 when anything is wrong.

    Args:
        path: Folder, tars or URL.
        modality: Which kind of data it is. Default: what an index says, else the first whose files are there (folders of images are images).
        workers: Threads.
        to: The list of what is damaged. Default: NAME-quarantine.txt in the current folder. Not written when all is well.
    """
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, found {workers}.")
    wrong: dict[str, str] = {}
    total, forms = 0, Counter()
    for part, raw in _parts(path, modality).items():
        found = check_samples(raw, workers, lambda seen: forms.update([seen.form]))
        wrong.update({f"{part}/{name}" if part else name: reason for name, reason in found.items()})
        total += len(raw)
    print(f"{path}: {sum(forms.values()):,} of {total:,} samples are fine: {_counted(forms)}")
    if not wrong:
        return
    for name in sorted(wrong)[:SHOWN]:
        print(f"  {name}: {wrong[name]}")
    if len(wrong) > SHOWN:
        print(f"  and {len(wrong) - SHOWN:,} more")
    to = to or Path(f"{Path(path.rstrip('/')).name or 'data'}-quarantine.txt")
    write_quarantine(to, wrong)
    raise DataError(f"{len(wrong):,} thing(s) are wrong with {path}; {to} lists them. Repair them, or leave them out with --data.exclude {to}.")


def show(path: tyro.conf.Positional[str], /, modality: str | None = None, to: Path | None = None) -> None:
    """Print what the data are and draw some samples.

    Args:
        path: Folder, tars or URL.
        modality: Which kind of data it is. Default: what an index says, else the first whose files are there (folders of images are images).
        to: The picture. Default: NAME-samples.png in the current folder.
    """
    for part, raw in _parts(path, modality).items():
        looked = [i * len(raw) // min(LOOKED_AT, len(raw)) for i in range(min(LOOKED_AT, len(raw)))]
        seen, damaged = [], 0
        for index in looked:
            try:
                seen.append(raw.check(index))
            except DataError:
                damaged += 1
        name = f"{raw.name} {part}".strip()
        print(f"{name}: {raw.modality}, {raw.format}, {len(raw):,} samples")
        print("\n".join(f"  {line}" for line in [*_classes(raw), *_forms(seen, len(looked), damaged), *(raw.facts() if hasattr(raw, "facts") else ())]))
        target = to or Path(f"{name.replace(' ', '-')}-samples.png")
        if to and part:
            target = to.with_stem(f"{to.stem}-{part}")
        raw.draw(looked[:: max(len(looked) // DRAWN, 1)][:DRAWN], target, f"{name}: {len(raw):,} samples")
        print(f"  drawn to {target}")


def _parts(path: str, modality: str | None, labelled: bool = True) -> dict[str, RawData]:
    """The parts of a data set as the modality's own reader gives them."""
    index = Path(path) / INDEX
    if modality is None and index.is_file():
        said = read_json(index).get("modality")
        modality = said if said in registry.MODALITIES else None
    if modality is None:
        return _guessed(path, labelled)
    if modality not in registry.MODALITIES:
        raise ConfigError(f"{modality!r} is no modality.{did_you_mean(modality, registry.MODALITIES)} Modalities: {', '.join(registry.MODALITIES)}.")
    return registry.load(f"modalities.{modality}.data:raw_parts")(path, labelled)


def _guessed(path: str, labelled: bool) -> dict[str, RawData]:
    """The parts of a data set as the first modality that finds its files there. Folders of image files are images, not videos in frames."""
    first: DataError | None = None
    for modality in registry.MODALITIES:
        try:
            parts = registry.load(f"modalities.{modality}.data:raw_parts")(path, labelled)
            if all(raw.fits() for raw in parts.values()):
                return parts
        except DataError as error:
            first = first or error
    raise first or ConfigError(f"Say which kind of data {path} is: --modality {' or '.join(registry.MODALITIES)}.")


def _resized(raw: RawData, side: int) -> RawData:
    """The samples encoded again in another size, by their modality's own function. ConfigError when it has none."""
    data = importlib.import_module(f"modalities.{raw.modality}.data")
    if not hasattr(data, "resized"):
        raise ConfigError(f"resize={side} is for videos; these are samples of {raw.modality}, which are packed as they are. Leave it out.")
    return data.resized(raw, side)


def _classes(raw: RawData) -> list[str]:
    """What there is to say of the classes, in lines."""
    if not raw.classes:
        return ["no classes"]
    try:
        counts = raw.class_counts()
    except DataError as error:
        return [f"{len(raw.classes)} classes, not counted: {error}"]
    if counts is None:
        return [f"{len(raw.classes)} classes: {', '.join(raw.classes[:SHOWN])}{' ...' if len(raw.classes) > SHOWN else ''}"]
    some = ", ".join(f"{name} {count:,}" for name, count in list(zip(raw.classes, counts))[:SHOWN])
    span = f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"
    return [f"{len(raw.classes)} classes of {span} samples: {some}{' ...' if len(counts) > SHOWN else ''}"]


def _forms(seen: list[Seen], looked: int, damaged: int) -> list[str]:
    """What some samples are, in lines."""
    lines = [f"{damaged} of {looked} samples that were looked at cannot be read: zoo data check tells why"] if damaged else []
    if not seen:
        return lines
    kinds: dict[int, list[tuple[int, ...]]] = {}
    for sample in seen:
        kinds.setdefault(len(sample.sides), []).append(sample.sides)
    lines.append(f"of {len(seen)} samples: {_counted(Counter(s.form for s in seen))}")
    for sides in kinds.values():
        axes = [f"{min(a)}" if min(a) == max(a) else f"{min(a)} to {max(a)} (median {statistics.median(a):g})" for a in zip(*sides)]
        lines.append(f"shape {' x '.join(axes)}")
    sizes = [sample.bytes for sample in seen]
    lines.append(f"{_size(min(sizes))} to {_size(max(sizes))} per sample, median {_size(statistics.median(sizes))}")
    return lines


def _counted(forms: Counter) -> str:
    return ", ".join(f"{count:,} {form}" for form, count in sorted(forms.items(), key=lambda item: (-item[1], item[0]))) or "none"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            break
        count, unit = count / 1000, {"B": "kB", "kB": "MB", "MB": "GB", "GB": "TB"}[unit]
    return f"{count:.3g} {unit}"

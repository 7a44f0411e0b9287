"""The command `zoo`. Listing and help import no torch; each verb imports what it needs when it runs."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modalities.common.commandline import early_options, guarded, positional
from trainer.errors import ConfigError, did_you_mean


def main(arguments: list[str] | None = None) -> int:
    """Run a verb; returns the exit code (0 done, 1 an error of ours, 2 wrong options, 130 stopped by Ctrl-C)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] in ("-V", "--version"):
        from zoo import __version__

        print(f"modality-zoo {__version__}")
        return 0
    verb, *rest = arguments
    if verb not in VERBS:
        print(f"Error: {verb!r} is no verb of zoo.{did_you_mean(verb, VERBS)} Verbs: {', '.join(VERBS)}.", file=sys.stderr)
        return 2
    return guarded(lambda: VERBS[verb](rest))


def usage() -> str:
    """The text of `zoo --help`."""
    width = max(len(v) for v in VERBS)
    lines = [f"  {name:<{width}}  {(function.__doc__ or '').splitlines()[0]}" for name, function in VERBS.items()]
    return "\n".join(
        ["usage: zoo VERB ...", "", "Modality-specific foundation models with one shared trainer.", "", *lines, "", "`zoo VERB --help` explains a verb."]
    )


def list_verb(arguments: list[str]) -> None:
    """List models: `zoo list [PATTERN]` takes a modality or a wildcard."""
    import tyro

    def show(pattern: tyro.conf.Positional[str] = "*", pretrained: bool = False) -> None:
        from modalities import registry

        names = registry.list_models(pattern, pretrained)
        if not names:
            raise ConfigError(f"No model matches {pattern!r}.{did_you_mean(pattern, [*registry.MODALITIES, *registry.entries()])} `zoo list` shows all.")
        width = max(len(n) for n in names)
        for name in names:
            entry = registry.find(name)
            print(f"{name:<{width}}  {entry.parameters / 1e6:7.2f} M  {'weights' if entry.weights else '       '}  {entry.summary}")

    tyro.cli(show, args=arguments, prog="zoo list", use_underscores=True)


def show_verb(arguments: list[str]) -> None:
    """Show what a model is: `zoo show NAME`, a registered name, a folder or a model of the Hub."""
    import tyro

    from zoo.showing import show

    tyro.cli(show, args=arguments, prog="zoo show", use_underscores=True)


def demo_verb(arguments: list[str]) -> None:
    """Run the demo of a modality from data to published model: `zoo demo [vision|video|time_series]`."""
    import tyro

    def demo(modality: tyro.conf.Positional[str] = "vision", to: Path | None = None) -> None:
        from modalities import registry
        from zoo.demo import run_demo

        if modality not in registry.MODALITIES:
            raise ConfigError(f"There is no demo of {modality!r}.{did_you_mean(modality, registry.MODALITIES)} Demos: {', '.join(registry.MODALITIES)}.")
        run_demo(modality, to or Path("runs") / "demo" / modality)

    tyro.cli(demo, args=arguments, prog="zoo demo", use_underscores=True)


def pack_verb(arguments: list[str]) -> None:
    """Pack data into tars with an index: `zoo pack DATA --to SHARDS [--modality M] [--samples_per_shard N]`."""
    import tyro

    from zoo.data import pack

    tyro.cli(pack, args=arguments, prog="zoo pack", use_underscores=True)


def data_verb(arguments: list[str]) -> None:
    """Look at data: `zoo data check PATH` reads everything and lists what is damaged, `zoo data show PATH` sums it up and draws it."""
    import tyro

    from zoo.data import check, show

    tyro.extras.subcommand_cli_from_dict({"check": check, "show": show}, args=arguments, prog="zoo data", use_underscores=True)


def pretrain_verb(arguments: list[str]) -> None:
    """Pre-train without labels: `zoo pretrain RECIPE --data.path FOLDER [--to RUN] [--resume] [--config FILE] [--show-schedule]`."""
    _pretrain("pretrain", arguments)


def further_verb(arguments: list[str]) -> None:
    """Continue pre-training on a small set with self-distillation: `zoo further RECIPE --init_from MODEL --data.path FOLDER [--rounds 1] [--to FOLDER]`."""
    from functools import partial

    from modalities.common.further import further_pretrain

    known, rest = early_options(arguments, "rounds")
    rounds = known["rounds"] or "1"
    if not rounds.isdecimal() or int(rounds) < 1:
        raise ConfigError(f"--rounds is how many students follow one another, a whole number of at least 1, found {rounds!r}.")
    _pretrain("further", rest, partial(further_pretrain, rounds=int(rounds)))


def _pretrain(verb: str, arguments: list[str], train: Callable[..., Any] | None = None) -> None:
    """Read a recipe and its options, and train by it."""
    from modalities import registry
    from modalities.common.commandline import run_recipe, with_config_file
    from trainer.config import read_yaml
    from zoo.cards import write_card

    name, arguments = positional(arguments)
    known, rest = early_options(arguments, "config")
    if not name and known["config"]:
        name = str(read_yaml(Path(known["config"])).get("recipe", ""))
    if not name:
        print(f"usage: zoo {verb} RECIPE [--to RUN] [--resume] [--config FILE] [--any.field value]\n\nRecipes:")
        print("\n".join(f"  {n}" for n in registry.recipes()))
        print(f"\n`zoo {verb} RECIPE --help` lists every field of a recipe.")
        if {"-h", "--help"} & set(rest):
            return
        raise ConfigError("Say which recipe to run.")
    recipe = with_config_file(registry.find_recipe(name), known["config"])
    run_recipe(f"zoo {verb} {name}", recipe, rest, f"Pre-train by the recipe {name}.", Path("runs") / name, write_card, train)


def finetune_verb(arguments: list[str]) -> None:
    """Fine-tune on labelled data: `zoo finetune NAME --data.path FOLDER [--head probe] [--to RUN]`."""
    from modalities import registry
    from modalities.common import pretrained
    from modalities.common.commandline import finetune_command
    from zoo.cards import write_card

    model, rest = positional(arguments)
    modality = pretrained.modality_of(model) if model else "vision"
    default_recipe = registry.load(f"modalities.{modality}.finetune:default_recipe")
    known, rest = early_options(rest, "data.path")
    given = ([known["data.path"]] if known["data.path"] else []) + (["--model", model] if model else [])
    finetune_command("zoo finetune NAME", default_recipe, given + rest, write_card)


def evaluate_verb(arguments: list[str]) -> None:
    """Measure a model on labelled data: `zoo evaluate NAME --data FOLDER`."""
    import tyro

    from zoo.evaluation import evaluate

    tyro.cli(evaluate, args=arguments, prog="zoo evaluate", use_underscores=True)


def feasibility_verb(arguments: list[str]) -> None:
    """Choose graphs to pre-train on before any training: `zoo feasibility PRE[,PRE...] DOWN[,DOWN...]` (names of built-in sets, folders, files)."""
    import tyro

    from modalities import registry

    tyro.cli(registry.load("modalities.graph.choosing:choose"), args=arguments, prog="zoo feasibility", use_underscores=True)


def average_verb(arguments: list[str]) -> None:
    """Average the weights of models, or of a run's last checkpoints: `zoo average MODEL MODEL... --to FOLDER`."""
    import tyro

    from zoo.averaging import average

    tyro.cli(average, args=arguments, prog="zoo average", use_underscores=True)


def predict_verb(arguments: list[str]) -> None:
    """Apply a model to files: `zoo predict NAME FILE...` (classes, or a picture of the reconstruction)."""
    import tyro

    from zoo.prediction import predict

    tyro.cli(predict, args=arguments, prog="zoo predict", use_underscores=True)


def publish_verb(arguments: list[str]) -> None:
    """Publish a model with its card, checked: `zoo publish RUN --repo NAMESPACE/NAME` (the Hub) or `--to FOLDER`."""
    import tyro

    from zoo.publishing import publish

    tyro.cli(publish, args=arguments, prog="zoo publish", use_underscores=True)


def report_verb(arguments: list[str]) -> None:
    """Write report.html and curves.png of a run, also of one that is going on or was stopped: `zoo report RUN`."""
    import tyro

    def report(run: tyro.conf.Positional[Path], /) -> None:
        """Write report.html and curves.png of a run from what lies in its folder; prints where the report is.

        Args:
            run: Folder of a run, finished or not.
        """
        from trainer.report import write_report

        print(write_report(run))

    tyro.cli(report, args=arguments, prog="zoo report", use_underscores=True)


def card_verb(arguments: list[str]) -> None:
    """Write the card of a model anew, without touching your own words in it: `zoo card RUN_OR_FOLDER`."""
    import tyro

    from zoo.carding import card

    tyro.cli(card, args=arguments, prog="zoo card", use_underscores=True)


def hub_verb(arguments: list[str]) -> None:
    """Run a Hub on this machine, to try publishing without an account: `zoo hub serve [--folder F] [--port N]`."""
    import tyro

    from zoo.serving import serve

    what, rest = positional(arguments)
    if what != "serve" and not {"-h", "--help"} & set(arguments):
        raise ConfigError(f"zoo hub knows one word, serve; found {what or 'none'!r}.{did_you_mean(what, ['serve'])}")
    tyro.cli(serve, args=rest, prog="zoo hub serve", use_underscores=True)


def convert_verb(arguments: list[str]) -> None:
    """Convert the weights of an official release: `zoo convert FILE --from official --to FOLDER`."""
    import tyro

    from zoo.converting import convert

    tyro.cli(convert, args=arguments, prog="zoo convert", use_underscores=True)


def extract_verb(arguments: list[str]) -> None:
    """Cut a smaller model out of an elastic one: `zoo extract RUN --size 384_12 --output FOLDER`."""
    import tyro

    from zoo.extracting import extract

    tyro.cli(extract, args=arguments, prog="zoo extract", use_underscores=True)


def export_verb(arguments: list[str]) -> None:
    """Write a model for another library: `zoo export NAME --to timm|transformers|onnx|torch-export --output FOLDER`."""
    import tyro

    from zoo.export import export

    tyro.cli(export, args=arguments, prog="zoo export", use_underscores=True)


VERBS: dict[str, Callable[[list[str]], None]] = {
    "list": list_verb,
    "show": show_verb,
    "demo": demo_verb,
    "pack": pack_verb,
    "data": data_verb,
    "pretrain": pretrain_verb,
    "further": further_verb,
    "finetune": finetune_verb,
    "evaluate": evaluate_verb,
    "feasibility": feasibility_verb,
    "average": average_verb,
    "predict": predict_verb,
    "card": card_verb,
    "publish": publish_verb,
    "extract": extract_verb,
    "export": export_verb,
    "report": report_verb,
    "hub": hub_verb,
    "convert": convert_verb,
}


if __name__ == "__main__":
    sys.exit(main())

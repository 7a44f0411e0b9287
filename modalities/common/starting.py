"""What fine-tuning starts with: an encoder, trained or not, and the kind of model that it becomes."""

from modalities import registry
from modalities.common import pretrained
from modalities.common.model import Model
from trainer.errors import ConfigError, ModelError


def starting_point(name: str, task: str, key: str, size: str | None = None, scratch: bool = False) -> tuple[Model, type[Model]]:
    """The encoder of a name or folder, which reads `key` of a batch, and the class of the model that does `task` with it.

    `size`: the part of an elastic model. `scratch`: random weights; what a folder says of its input is kept. Raises ConfigError without a name,
    ModelError for a model that nothing makes such a one of.
    """
    if not name:
        raise ConfigError("Say which encoder to start from: --model FOLDER_OR_NAME (`zoo list` shows the names).")
    architecture_only = scratch and name in registry.entries()
    encoder = (pretrained.create(name) if architecture_only else pretrained.load(name)).part(size)
    tasks = registry.systems()[encoder.system].tasks
    if encoder.input_key != key or task not in tasks:
        can = f" It can become: {', '.join(tasks)}." if tasks and encoder.input_key == key else ""
        raise ModelError(f"{name} is a {encoder.system} that reads {encoder.input_key}, and nothing makes a model for {task} of {key}s of it.{can}")
    if scratch:
        known, encoder = encoder.preprocess, type(encoder)(encoder.config)
        encoder.preprocess = known
    return encoder, registry.system_class(tasks[task])

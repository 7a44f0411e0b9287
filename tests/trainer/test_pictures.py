import pytest
from PIL import Image

from trainer.errors import CheckpointError, ConfigError
from trainer.pictures import draw_schedule
from trainer.schedule import ScheduleConfig


@pytest.mark.parametrize("steps", [1, 2, 30, 1_000_000])
def test_draw_schedule(steps, tmp_path):
    config = ScheduleConfig("infinite", floor=0.1)
    path = draw_schedule(config, steps, 1e-3, 256, tmp_path / "a.png", "a title")
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.size == (960, 480)
        assert len(picture.convert("L").getcolors()) > 20


def test_what_cannot_be_drawn(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="do not fit"):
        draw_schedule(ScheduleConfig(warmup_steps=9), 5, 1e-3, 1, tmp_path / "a.png")
    with pytest.raises(CheckpointError, match="Cannot write"):
        draw_schedule(ScheduleConfig(), 5, 1e-3, 1, tmp_path / "file" / "a.png")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]

from modalities.common.load_report import LoadReport, Row, compact

ROWS = (
    *(Row("matched", "encoder", f"blocks.{i}.weight", (2, 2), (f"blocks.{i}.weight",), ((2, 2),)) for i in range(3)),
    Row("resized", "encoder", "pos_embed", (1, 5, 2), ("pos_embed",), ((1, 10, 2),), "interpolated from 3 x 3 to 2 x 2"),
    Row("renamed", "encoder", "qkv", (6, 2), ("q", "k", "v"), ((2, 2),) * 3, "joined from 3"),
    Row("new", "classification head", "head.weight", (4, 2), note="for 4 outputs"),
    *(Row("unused", "decoder", None, None, (f"decoder.{i}",), ((2,),), "only pre-training needs it") for i in range(9)),
)


def test_words_and_reasons():
    report = LoadReport(ROWS, "transformers", "org/name", revision="abc", loaded="2030-01-02", notes=("in_chans: 3 in the checkpoint, 1 here",))
    assert report.words() == "encoder complete 5/5, 1 resized; decoder left out, 9 tensors; classification head new"
    text = str(report)
    assert text.startswith("org/name at revision abc (transformers layout, loaded 2030-01-02): encoder complete 5/5")
    for line in ("pos_embed: interpolated from 3 x 3 to 2 x 2", "new, for 4 outputs: head.weight", "unused, only pre-training needs it: 9 tensors", "in_chans: 3"):
        assert f"\n  {line}" in text


def test_parts_that_are_not_whole():
    rows = (*ROWS[:3], Row("new", "encoder", "norm", (2,), note="x"), Row("unused", "encoder", None, None, ("old",), ((2,),), "y"),
            Row("new", "head", "h", (1,), note="x"), Row("unused", "head", None, None, ("h",), ((2,),), "y"))  # fmt: skip
    assert LoadReport(rows, "official", "x").words() == "encoder 3/4, 1 new, 1 of the file left out; head new, the stored one left out, 1 tensor"


def test_the_table_has_every_tensor():
    lines = LoadReport(ROWS, "official", "x").table().splitlines()
    assert len(lines) == 1 + len(ROWS) and lines[0].split()[:2] == ["kind", "part"]
    assert lines[5].split("  ")[0] == "renamed" and "q, k, v" in lines[5] and "6 x 2" in lines[5] and "joined from 3" in lines[5]
    assert "1 x 10 x 2" in lines[4] and "1 x 5 x 2" in lines[4]


def test_names_are_shortened_and_none_is_lost():
    assert compact(["b", "a"]) == "a, b"
    many = [f"blocks.{i}.{part}" for i in range(12) for part in ("norm.weight", "norm.bias")] + ["x"]
    assert compact(many, most=10) == "blocks.0-11.norm.bias, blocks.0-11.norm.weight, x"
    assert compact(["a.1", "a.3", "a.4", "a.5", "a.9", "b.01", "c"], most=1) == "a.1+3-5+9, b.01, c"

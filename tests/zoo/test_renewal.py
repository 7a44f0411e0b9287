"""A person's words in a card, whatever is written around them."""

import random

import pytest
import yaml
from huggingface_hub import ModelCard

import zoo
from tests.zoo.records import RECORD, write_run
from trainer.errors import CheckpointError
from zoo.cards import card_of, write_card
from zoo.renewal import own_words, parse, renew

NAMES = ("model", "data", "limits")


def card(model="m", data="d", limits="l", head="license: apache-2.0\ntags:\n- a\n"):
    blocks = "\n".join(f"<!-- generated: {n} -->\n{t}\n<!-- end: {n} -->\n" for n, t in (("model", model), ("data", data), ("limits", limits)) if t is not None)
    return f"---\n{head}---\n\n<!-- note -->\n\n{blocks}"


def renewed(existing, fresh=None, complete=True):
    return renew(fresh or card(), existing, "the card", NAMES, complete)


def test_what_nobody_touched_is_written_anew_without_a_word():
    assert renewed(card()) == (card(), [])
    text, said = renewed(card(data="old\nd"))
    assert text == card() and said == ["the block 'data' was written anew, 1 line(s) of it are gone: 'old'"]


def test_words_around_the_blocks_stay_to_the_letter():
    mine = card().replace("<!-- generated: data -->", "Mine,  with\ttabs \u2028 and\x0c odd | signs & <b>HTML</b>\n\n```\n---\n```\n<!-- generated: data -->")
    mine = mine.replace("<!-- note -->", "Before.") + "\n## After\nno line end"
    text, said = renewed(mine, card(data="new", limits="other"))
    assert text == mine.replace("\nd\n", "\nnew\n").replace("\nl\n", "\nother\n") + "\n"
    assert [s[:16] for s in said] == ["the block 'data'", "the block 'limit"]


def test_blocks_may_be_moved_and_come_back_when_taken_out():
    old = parse(card(), "x")
    moved = [p for p in old.parts if p[0] != "limits"]
    moved.insert(0, ("limits", "l\n"))
    old.parts = moved
    assert list(parse(renewed(old.text())[0], "x").blocks) == ["limits", "model", "data"]
    text, said = renewed(card(model=None))
    assert said == ["the block 'model' is new"] and list(parse(text, "x").blocks) == ["model", "data", "limits"]
    text, said = renewed(card(data=None))
    assert list(parse(text, "x").blocks) == ["model", "data", "limits"] and renewed(text) == (text, [])


def test_a_block_of_which_nothing_is_known_goes_or_stays():
    text, said = renewed(card(), card(data=None))
    assert list(parse(text, "x").blocks) == ["model", "limits"] and "taken out" in said[0]
    assert renewed(card(), card(data=None), complete=False) == (card(), [])


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_other_line_ends(end):
    assert renewed("\ufeff" + card(data="old").replace("\n", end))[0] == card()


@pytest.mark.parametrize(
    "broken, words",
    [
        (card().replace("<!-- end: data -->\n", ""), "line 16: .* the block 'data' of line 13 has no end before it"),
        (card().replace("<!-- generated: data -->\n", ""), "line 14: .* no such block has begun"),
        (card().replace("<!-- end: limits -->\n", ""), "line 17: the block 'limits' has no end"),
        (card().replace("<!-- end: data -->", "<!-- end: limits -->"), "line 15: a damaged mark"),
        (card().replace("<!-- end: data -->", "<!-- end:data-->"), "the block 'data' of line 13 has no end before it"),
        (card().replace("<!-- generated: data -->", "<!--Generated data -->"), "line 13: a damaged mark"),
        (card().replace("generated: data", "generated: date").replace("end: data", "end: date"), "'date', which this version does not write. Did you mean 'data'"),
        (card() + "<!-- generated: data -->\nx\n<!-- end: data -->\n", "the block 'data' is there twice"),
        ("---\nlicense: mit\n---\nAll of it is mine.\n", "has no generated blocks"),
        ("All of it is mine.\n", "has no generated blocks"),
        (card(head="license: [\n"), "is not valid YAML"),
        (card(head="license: mit\nlicense: mit\n"), "says license twice"),
        (card(head="{license: mit}\n"), "must be a YAML mapping"),
        (card(head="- license\n"), "must be a YAML mapping"),
        (card(head="tags: a\n"), "tags must be a list"),
        (card(head="zoo_keep: license\n"), "zoo_keep lists"),
        (card(head="zoo_keep: [licence]\n"), "found 'licence'. It may name: license,"),
        (card(head="a: &x [1]\nb: *x\n? c\n"), "must be a YAML mapping|not valid"),
    ],
)
def test_damage_is_an_error_and_never_a_loss(broken, words):
    with pytest.raises(CheckpointError, match=words):
        renewed(broken)


@pytest.mark.parametrize("seed", range(20))
def test_random_damage_loses_no_word(seed):
    """Whatever happens to lines of a card: it is refused, or every word outside of the blocks is still there."""
    rng = random.Random(seed)
    lines = card().replace("<!-- end: model -->\n", "<!-- end: model -->\nMY OWN WORDS\n").splitlines(keepends=True)
    for _ in range(rng.randrange(1, 4)):
        i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
        what = rng.choice(["drop", "swap", "double", "cut"])
        if what == "swap":
            lines[i], lines[j] = lines[j], lines[i]
        elif "MY OWN" not in lines[i]:
            lines[i : i + 1] = {"drop": [], "double": [lines[i]] * 2, "cut": [lines[i][: len(lines[i]) // 2] + "\n"]}[what]
    text = "".join(lines)
    try:
        inside = any("MY OWN WORDS" in block for block in parse(text, "x").blocks.values())
        after, _ = renewed(text)
    except CheckpointError:
        return
    assert inside or "MY OWN WORDS" in after


def test_the_head_is_joined_key_by_key():
    mine = "# a remark\nlicense: mit  # mine\n# of the next\nlanguage: [en]\ntags: [b, a]\nthumbnail: 'x.png'\nmodel-index:\n- name: old\n"
    fresh = "license: apache-2.0\ntags:\n- a\n- c\nbase_model: me/base\nmodel-index:\n- name: new\n"
    text, said = renewed(card(head=mine), card(head=fresh))
    head = text.split("---\n")[1]
    assert yaml.safe_load(head) == {
        "license": "apache-2.0", "language": ["en"], "tags": ["a", "c", "b"], "thumbnail": "x.png", "model-index": [{"name": "new"}], "base_model": "me/base",
    }  # fmt: skip
    assert all(remark in head for remark in ("# a remark\n", "# of the next\n", "language: [en]\n", "thumbnail: 'x.png'\n"))
    assert said == ["the key license was 'mit'", "the key model-index was \"[{'name': 'old'}]\""]
    kept, said = renewed(card(head=mine + "zoo_keep: [model-index]\n"), card(head=fresh))
    assert yaml.safe_load(kept.split("---\n")[1])["model-index"] == [{"name": "old"}] and len(said) == 1
    gone, said = renewed(card(head=mine), card())
    assert "model-index" not in gone.split("---\n")[1] and len(said) == 2
    assert "- name: old" in renewed(card(head=mine), card(), complete=False)[0]
    other, _ = renewed(card(head=mine + "base_model: mine\n"), card(head=fresh))
    assert yaml.safe_load(other.split("---\n")[1])["base_model"] == "mine"
    assert renewed(card(head=mine), card(head=mine)) == (card(head=mine.replace("tags: [b, a]", "tags: [b, a]")), [])


def test_a_head_without_text_is_filled():
    text, said = renewed("---\nlanguage: en\n---\n")
    assert "language: en" in text and text.endswith(card().split("---\n")[2]) and not said


def test_own_words():
    assert own_words(card(data="old"), card(), "x") == ()
    assert own_words(card() + "mine\n", card(), "x") == ("mine",)
    assert own_words(card(head="license: mit\nlanguage: en\ntags:\n- a\n- b\n"), card(), "x") == ("language: en\n", "tag b")


def test_a_card_of_a_run_keeps_words_and_pictures(tmp_path, caplog):
    """The words stay through new facts, wherever they were written, with the picture that they show."""
    run, model = write_run(tmp_path / "run"), zoo.create("vision/mae-tiny")
    text, _ = write_card(model, RECORD, run)
    place = tmp_path / "published"
    place.mkdir()
    (place / "mine.png").write_bytes(b"x")
    mine = text.replace("## Data\n", "## Data (edited)\n").replace("<!-- generated: limits -->", "My words, ![me](mine.png).\n\n<!-- generated: limits -->")
    (place / "README.md").write_text(mine)
    with caplog.at_level("WARNING", "zoo"):
        again, files = write_card(model, {**RECORD, "steps": 99}, run, renews=[place / "README.md"])
    assert "My words, ![me](mine.png)." in again and "99 steps" in again and "## Data\n" in again and files["mine.png"] == place / "mine.png"
    assert "the block 'data' was written anew, 1 line(s) of it are gone: '## Data (edited)'" in caplog.text
    assert ModelCard(again).data.license == "apache-2.0"
    (run / "export").mkdir()
    (run / "export" / "README.md").write_text(text.replace("<!-- generated: limits -->", "Other words.\n\n<!-- generated: limits -->"))
    assert "Other words." in write_card(model, RECORD, run)[0]
    with pytest.raises(CheckpointError, match="both hold words of somebody's own"):
        write_card(model, RECORD, run, renews=[place / "README.md"])
    (run / "export" / "README.md").write_text(mine)
    assert "My words" in write_card(model, RECORD, run, renews=[place / "README.md"])[0]
    (place / "README.md").write_text(text)  # nobody's words there: those of the export count
    assert "My words" in write_card(model, RECORD, run, renews=[place / "README.md"])[0]


def test_the_short_card_of_the_mixin_is_nobodys(tmp_path):
    model = zoo.create("vision/mae-tiny")
    model.save_pretrained(tmp_path / "model")
    text, _ = card_of(model, None, renews=[tmp_path / "model" / "README.md"])
    assert "## Origin" in text and "PytorchModelHubMixin" not in text

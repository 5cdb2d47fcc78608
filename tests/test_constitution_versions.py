"""Versions of constitutions on disk: whole or absent, never overwritten, never outside their folder."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from lab.feedback.constitution.principles import ConstitutionError, Principle, read_constitution
from lab.feedback.constitution.versions import Versions, changes, checked, places, yaml_of

EVIL = '<img src=x onerror="window.__xss=1">: {} - # "quoted" \'single\' %{y} & * ! | >'


def principle(id: str = "harm", text: str = "Do no harm.", **more: object) -> dict:
    return {"id": id, "text": text, "critique": "Is it harmful?", "revision": "Mend it.", **more}


def written(*principles: dict) -> str:
    return yaml_of("mine", "about it", list(principles) or [principle()])


def test_a_version_is_read_as_it_was_written(tmp_path: Path) -> None:
    book = Versions(tmp_path)
    assert book.all() == {}
    said = [
        principle(weight=2.5, on=True, critic="harm"),
        principle("evil", EVIL, on=False),
        principle("no", "true", weight=1.0),
    ]
    assert book.save("mine", written(*said)) == 1
    found = book.read("mine", 1)
    assert found.principles == (
        Principle("harm", "Do no harm.", "Is it harmful?", "Mend it.", 2.5, True, "harm"),
        Principle("evil", EVIL, "Is it harmful?", "Mend it.", 1.0, False, ""),
        Principle("no", "true", "Is it harmful?", "Mend it.", 1.0, True, ""),
    )
    assert (found.name, found.version, found.about) == ("mine", "1", "about it")
    assert book.text("mine", 1).count("weight") == 1, "what has its default is not written"


def test_the_presets_survive_being_written_again() -> None:
    for name in ("general",):
        found = read_constitution(name)
        again = checked(yaml_of(found.name, found.about, [
            {key: getattr(p, key) for key in Principle.__slots__} for p in found.principles]), "again")  # fmt: skip
        assert again.digest == found.digest


def test_versions_count_up_and_stay(tmp_path: Path) -> None:
    book = Versions(tmp_path)
    assert [book.save("mine", written(principle(text=t))) for t in ("One.", "Two.", "Two.")] == [1, 2, 3]
    assert book.save("other", written()) == 1
    assert book.all() == {"mine": [1, 2, 3], "other": [1]}
    assert book.read("mine", 1).principles[0].text == "One."
    (tmp_path / ".constitutions" / "mine" / "v2.yaml").unlink()
    assert book.save("mine", written()) == 4, "a number is not given twice"
    for odd in ("v07.yaml", "v0.yaml", "vx.yaml", "notes.txt"):
        (tmp_path / ".constitutions" / "mine" / odd).write_text("odd")
    assert book.of("mine") == [1, 3, 4]


def test_a_taken_name_is_never_overwritten(tmp_path: Path) -> None:
    """Another process saved v1 after this one had looked: its bytes stay, and this one gets v2."""
    book = Versions(tmp_path)
    home = tmp_path / ".constitutions" / "mine"
    home.mkdir(parents=True)
    book.of = lambda name: []  # type: ignore[method-assign]
    (home / "v1.yaml").write_text("theirs")
    assert book.save("mine", written()) == 2
    assert (home / "v1.yaml").read_text() == "theirs"


def test_two_who_save_at_once_get_two_versions(tmp_path: Path) -> None:
    got: list[int] = []
    gate = threading.Barrier(8)

    def save(i: int) -> None:
        gate.wait()
        got.append(Versions(tmp_path).save("mine", written(principle(text=f"Text {i}."))))

    threads = [threading.Thread(target=save, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    book = Versions(tmp_path)
    assert sorted(got) == book.of("mine") == list(range(1, 9))
    assert {book.read("mine", n).principles[0].text for n in got} == {f"Text {i}." for i in range(8)}
    assert [p.name for p in (tmp_path / ".constitutions" / "mine").iterdir() if p.suffix == ".tmp"] == []


@pytest.mark.parametrize("name", ["", ".", "..", "../out", "a/b", "a\\b", "A", "-a", "a-", "a" * 41, "a\n", "a\0", "ä",
                                  ".hidden", "v1.yaml", "a b"])  # fmt: skip
def test_names_lead_nowhere(tmp_path: Path, name: str) -> None:
    book = Versions(tmp_path / "runs")
    for ask in (lambda: book.save(name, written()), lambda: book.read(name, 1), lambda: book.of(name)):
        with pytest.raises(ConstitutionError, match="is no name for a constitution"):
            ask()
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_is_said_with_its_line_and_nothing_is_kept(tmp_path: Path) -> None:
    book = Versions(tmp_path)
    text = written(principle(), principle("harm", ""), principle("w", weight=-1.0))
    with pytest.raises(ConstitutionError) as caught:
        book.save("mine", text)
    lines = text.splitlines()
    broken = {lines.index("    text: ''") + 1, [i for i, line in enumerate(lines, 1) if "id: harm" in line][1],
              lines.index("    weight: -1.0") + 1}  # fmt: skip
    assert {int(p.split("line ")[1].split(":")[0]) for p in caught.value.problems} == broken
    assert book.all() == {}
    assert places(text) == [i for i, line in enumerate(lines, 1) if line.startswith("  - id:")]


@pytest.mark.parametrize(
    "text",
    [
        "", "principles: []", "- a", "[" * 3000, "principles: &a [*a]", "a: b: c", "\ud800", "x" * 200_001,
        "name: \x01", "principles:\n- !!python/object/apply:os.system [ls]",
    ],
)  # fmt: skip
def test_odd_texts_are_refused_in_words(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConstitutionError) as caught:
        Versions(tmp_path).save("mine", text)
    assert caught.value.problems
    assert list(tmp_path.rglob("*.yaml")) == []


def test_a_version_that_is_not_there_is_named(tmp_path: Path) -> None:
    book = Versions(tmp_path)
    book.save("mine", written())
    with pytest.raises(ConstitutionError, match="mine has no version 7; there is v1"):
        book.read("mine", 7)
    with pytest.raises(ConstitutionError, match="there is none yet"):
        book.read("nobody", 1)


def test_what_changed_between_two_versions() -> None:
    old = checked(written(principle(), principle("brief", "Be brief."), principle("gone", "Old.")), "old")
    fresh = principle("fresh", "New.", on=False)
    new = checked(written(principle("brief", "Be short."), principle(weight=3.0, on=True), fresh), "new")
    found = {c.id: c for c in changes(old, new)}
    assert list(found) == ["brief", "harm", "fresh", "gone"]
    assert (found["brief"].what, found["brief"].parts) == ("changed", (("text", "Be brief.", "Be short."),))
    assert found["harm"].parts == (("weight", "1", "3"),)
    assert found["fresh"].what == "added"
    assert ("on", "", "off") in found["fresh"].parts
    assert found["gone"].what == "removed"
    assert all(after == "" for _, _, after in found["gone"].parts)
    assert [c.what for c in changes(old, old)] == ["same"] * 3

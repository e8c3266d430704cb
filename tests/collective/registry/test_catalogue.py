"""The readable form of entries: in whatever order they arrive, it is the same."""

from __future__ import annotations

from itertools import permutations

from tests.collective.registry.registry_kit import file, service

from dodici.collective.registry.catalogue import (
    Catalogue,
    Draft,
    Entry,
    Kind,
    file_content,
    message_names,
    service_content,
)


def entry(name: str, *methods: str, version: int = 1, order: int = 1) -> Entry:
    content = service_content("n", service(name, *methods), None)
    return Entry(Kind.SERVICE, "n", name, content, version, order)


def of_file(name: str, *messages: str, version: int = 1, imports: tuple[str, ...] = ()) -> Entry:
    content = file_content(file(name, "a", messages, imports=imports))
    return Entry(Kind.FILE, "n", name, content, version, 1)


def test_an_older_version_that_arrives_late_is_passed_over() -> None:
    catalogue = Catalogue()
    catalogue.apply([entry("S", "New", version=3), entry("S", "Old", version=2)])
    assert (catalogue.has("n", "S", "New"), catalogue.has("n", "S", "Old")) == (True, False)
    assert catalogue.service_count == 1
    catalogue.apply([of_file("f", "New", version=3)])
    revision = catalogue.revision
    catalogue.apply([of_file("f", "Old", version=2), of_file("f", "Old", version=3)])
    assert (catalogue.file_of("n", "a.New"), catalogue.file_of("n", "a.Old")) == ("f", None)
    assert (catalogue.revision, catalogue.file_count) == (revision, 1)


def test_a_short_name_belongs_to_the_first_registered_whatever_arrives_first() -> None:
    entries = [entry("b.S", "B", order=1), entry("a.S", "A", order=2), entry("c.S", "C", order=3)]
    for arriving in permutations(entries):
        catalogue = Catalogue()
        catalogue.apply(arriving)
        assert catalogue.has("n", "S", "B")
        assert not catalogue.has("n", "S", "A")
        catalogue.remove(Kind.SERVICE, "n", "b.S")
        assert catalogue.has("n", "S", "A")
        catalogue.remove(Kind.SERVICE, "n", "c.S")
        catalogue.remove(Kind.SERVICE, "n", "c.S")
        assert [each.service_name for each in catalogue.services()] == ["a.S"]
        catalogue.remove(Kind.SERVICE, "n", "a.S")
        assert (catalogue.service("n", "S"), catalogue.namespaces(), catalogue.service_count) == (None, (), 0)


def test_the_last_file_to_define_a_message_is_asked_for_it() -> None:
    catalogue = Catalogue()
    catalogue.apply([of_file("one", "M", "Only"), of_file("two", "M")])
    assert catalogue.file_of("n", "a.M") == "two"
    catalogue.apply([of_file("two", "Else", version=2)])
    assert (catalogue.file_of("n", "a.M"), catalogue.file_of("n", "a.Else")) == ("one", "two")
    catalogue.remove(Kind.FILE, "n", "one")
    assert (catalogue.file_of("n", "a.M"), catalogue.file_of("n", "a.Only")) == (None, None)
    assert (catalogue.file("n", "one"), catalogue.file_count) == (None, 1)


def test_importers_at_any_distance() -> None:
    catalogue = Catalogue()
    catalogue.apply(
        [
            of_file("base", "B"),
            of_file("near", "N", imports=("base",)),
            of_file("far", "F", imports=("near",)),
            of_file("other", "O"),
        ]
    )
    assert catalogue.importers("n", ["base"]) == {"near", "far"}
    assert catalogue.importers("n", ["far", "other"]) == set()


def test_what_there_is_an_entry_of() -> None:
    catalogue = Catalogue()
    catalogue.apply([entry("a.S"), of_file("f", "M")])
    assert catalogue.keys() == {(Kind.SERVICE, "n", "a.S"), (Kind.FILE, "n", "f")}
    assert catalogue.holds(Draft(Kind.SERVICE, "n", "a.S", b""))
    assert not catalogue.holds(Draft(Kind.SERVICE, "n", "S", b""))
    assert not catalogue.holds(Draft(Kind.FILE, "x", "f", b""))


def test_names_of_messages() -> None:
    defined = file(messages=["Outer"])
    defined.message_type[0].nested_type.add(name="Inner").nested_type.add(name="Deep")
    entries = defined.message_type[0].nested_type.add(name="MapEntry")
    entries.options.map_entry = True
    assert list(message_names(defined)) == ["a.Outer", "a.Outer.Inner", "a.Outer.Inner.Deep"]
    assert list(message_names(file(package="", messages=["Bare"]))) == ["Bare"]

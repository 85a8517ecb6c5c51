from __future__ import annotations

import pytest

from featcache.core.errors import SourceError
from featcache.core.labels import Columns, from_columns
from featcache.core.text import alike, doubled, few, file_name, one_form

NFC, NFD = "caf\u00e9", "cafe\u0301"


def test_names_that_look_the_same_have_one_form():
    assert one_form([NFC, NFD, "tea"]) == {NFC: NFC, NFD: NFC, "tea": "tea"}
    assert doubled(one_form([NFC, NFD, "tea"])) == [NFC]


def test_a_name_without_a_double_stays_as_it_is():
    assert one_form([NFD, NFD, "tea"]) == {NFD: NFD, "tea": "tea"}
    assert doubled(one_form([NFD, NFD])) == []


def test_what_is_known_stands_for_its_forms():
    assert one_form([NFC], known=[NFD]) == {NFC: NFD}


def test_names_that_a_file_can_have():
    assert file_name("a" * 200) == "a" * 200
    long = {file_name("ü" * 101), file_name("ü" * 102), file_name("ü" * 101 + "\udcff")}
    assert len(long) == 3
    assert all(len(name.encode()) <= 200 and name.startswith("ü" * 90) for name in long)


def test_names_that_look_alike():
    names = ["Apple", "apple", "pear", "a b", "a\u00a0 b", "kiwi\u200b", "kiwi", "x"]
    assert alike(names) == sorted(set(names) - {"pear", "x"})


def test_few_names():
    assert few(list("ab")) == "'a', 'b'"
    assert few(list("abcde")) == "'a', 'b', 'c' and 2 more"


def test_labels_and_groups_in_two_forms_are_one():
    about = from_columns(4, Columns(label=[NFC, None, NFD, "tea"], group=[NFD, "", NFC, None]))
    assert about.class_names == (NFC, "tea")
    assert about.labels.tolist() == [0, -1, 0, 1]
    assert about.groups == (NFC, "", NFC, "")
    assert about.remarks == (
        f"Labels that differ in Unicode form alone (NFC, NFD) count as one: '{NFC}'.",
        f"Groups that differ in Unicode form alone (NFC, NFD) count as one: '{NFC}'.",
    )


def test_several_labels_in_two_forms_are_one():
    about = from_columns(3, Columns(labels=[[NFC, NFD], None, ["tea", NFD]]))
    assert about.class_names == (NFC, "tea")
    assert about.labels.tolist() == [[1, 0], [-1, -1], [1, 1]]


def test_labels_of_one_form_stay_in_it():
    about = from_columns(2, Columns(label=[NFD, "tea"]))
    assert (about.class_names, about.remarks) == ((NFD, "tea"), ())


def test_given_class_names_keep_their_form():
    about = from_columns(2, Columns(label=[NFC, "tea"], class_names=["tea", NFD]))
    assert (about.class_names, about.labels.tolist()) == (("tea", NFD), [1, 0])
    with pytest.raises(SourceError, match="a name twice"):
        from_columns(1, Columns(label=[NFC], class_names=[NFC, NFD]))

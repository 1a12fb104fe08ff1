"""Names by id and by matching."""

import pytest
from predictor_model import save_matching

from u2seg.engine.results import ClassNames, names_from_matching
from u2seg.errors import DataError, UsageError
from u2seg.structures import LabelSpace, category_color

SPACE = LabelSpace(3, 2)
CLASSES = [("person", True), ("car", True), ("sky", False)]
MANY = {1: 0, 2: 0, 3: 1, 4: 2, 5: None}
ONE = {1: 0, 2: None, 3: 1, 4: 2, 5: None}


@pytest.fixture
def matching(tmp_path):
    return save_matching(tmp_path / "m.json", CLASSES, {"one_to_one": ONE, "many_to_one": MANY})


def test_without_anything_known_a_class_is_called_by_its_id():
    names = ClassNames(SPACE)
    assert [names[index] for index in range(1, 6)] == ["1", "2", "3", "4", "5"]
    assert names.color(4) == tuple(category_color(4))
    assert [entry["name"] for entry in names.categories()] == ["1", "2", "3", "4", "5"]


def test_matched_classes_get_their_names_and_share_a_colour(matching):
    names = names_from_matching(matching, SPACE)
    assert [names[index] for index in range(1, 6)] == ["person", "person", "car", "sky", "5"]
    assert names.color(2) == names.color(1) != names.color(3)
    assert [names.written_id(index) for index in range(1, 6)] == [1, 1, 3, 4, 5]
    assert [(entry["id"], entry["name"]) for entry in names.categories()] == [
        (1, "person"),
        (3, "car"),
        (4, "sky"),
        (5, "5"),
    ]
    assert [tuple(entry["color"]) for entry in names.categories()] == [names.color(index) for index in (1, 3, 4, 5)]
    assert names.metadata()["stuff_classes"] == ["things", "sky", "5"]


def test_the_policy_can_be_chosen(matching):
    assert names_from_matching(matching, SPACE, "one_to_one")[2] == "2"
    with pytest.raises(UsageError, match=r"no matching policy .* 'one_to_on'.*Did you mean 'one_to_one'"):
        names_from_matching(matching, SPACE, "one_to_on")


def test_a_matching_of_other_clusters_is_refused(matching, tmp_path):
    with pytest.raises(DataError, match="matches 5 clusters, which are not those of the model: 3 of things, then 3 "):
        names_from_matching(matching, LabelSpace(3, 3))
    with pytest.raises(DataError, match="matches 5 clusters, which are not those of the model: 2 of things, then 3 "):
        names_from_matching(matching, LabelSpace(2, 3))
    with pytest.raises(UsageError, match="there is no file"):
        names_from_matching(tmp_path / "gone.json", SPACE)
    other = tmp_path / "other.json"
    other.write_text("{}")
    with pytest.raises(DataError, match="is no matching"):
        names_from_matching(other, SPACE)
    broken = save_matching(tmp_path / "broken.json", CLASSES[:1], {"many_to_one": MANY})
    with pytest.raises(DataError, match="is no whole matching"):
        names_from_matching(broken, SPACE)

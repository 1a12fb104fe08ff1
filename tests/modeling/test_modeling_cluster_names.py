"""Names by crops: those that labels would have, of the network and the clusters that labels have, and no other's."""

import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from fitted_clusters import write_clusters
from test_modeling_compat import batch, make

from u2seg.errors import UsageError
from u2seg.modeling.cluster_names import ClusterNames, take_centres
from u2seg.pseudo.embeddings import crop_embeddings

COUNT = 5


def options(weights, **arguments):
    chosen = {"model": "test_vit", "weights": weights, "layer": 2, "embed_layer": 3, "precision": "float32"} | arguments
    return [word for key, value in chosen.items() for word in (f"U2SEG.FEATURES.ARGS.vit.{key}", str(value))]


@pytest.fixture
def names(vit_files):
    return make("MODEL.U2SEG.NAMES_BY_CROP", "True", *options(vit_files[0])).names


def scene(seed=0):
    """A photo of noise, and four detections: two sure ones, a sure one without a pixel, an unsure one."""
    rng = np.random.default_rng(seed)
    masks = torch.zeros(4, 60, 90, dtype=torch.bool)
    masks[0, 5:40, 5:60] = masks[1, 20:30, 70:85] = masks[3, 40:55, 10:80] = True
    scores = torch.tensor([0.9, 0.5, 0.8, 0.4])
    detections = Instances((60, 90), pred_masks=masks, scores=scores, pred_classes=torch.full((4,), COUNT + 1))
    return rng.integers(0, 256, (60, 90, 3), np.uint8), detections


def test_what_is_painted_is_named_as_labels_are(names, vit_files, tmp_path):
    clusterer = write_clusters(tmp_path, options(vit_files[0], layer=-1), COUNT)
    assert names.load_labels(tmp_path)
    extractor = names._extractor[0]
    drawn = set()
    for seed in range(4):
        photo, found = scene(seed)
        names.rename(photo, found, 0.5)
        expected = clusterer.predict(crop_embeddings(extractor, photo, found.pred_masks[:2].numpy()))
        assert found.pred_classes.tolist() == [*expected, COUNT + 1, COUNT + 1]
        drawn.update(expected.tolist())
    assert len(drawn) > 1


def test_without_centres_or_detections_nothing_is_renamed(names, vit_files, tmp_path):
    photo, found = scene()
    names.rename(photo, found, 0.5)
    assert (found.pred_classes == COUNT + 1).all()
    write_clusters(tmp_path, options(vit_files[0]), COUNT)
    assert names.load_labels(tmp_path)
    names.rename(photo, nothing := found[:0], 0.5)
    assert len(nothing) == 0


@pytest.mark.parametrize("case", ["no file", "no centres", "mean"])
def test_labels_whose_clusters_are_not_of_crops_give_no_centres(case, names, vit_files, tmp_path, caplog):
    if case != "no file":
        without = ("cluster_centers",) if case == "no centres" else ()
        run = [*options(vit_files[0]), *(("U2SEG.CLUSTERS.EMBEDDING", "mean") if case == "mean" else ())]
        write_clusters(tmp_path, run, COUNT, without)
    model = torch.nn.Module()
    model.names = names
    take_centres(model, [tmp_path])
    assert "named by the box heads" in caplog.text
    assert not names.centres.any()
    caplog.clear()
    names.centres.fill_(1)  # of the checkpoint that training went on from
    take_centres(model, [tmp_path])
    assert not caplog.text
    assert names.centres.all()


def test_centres_of_other_vectors_or_another_number_are_refused(names, vit_files, tmp_path):
    write_clusters(tmp_path, options(vit_files[1]), COUNT)
    with pytest.raises(UsageError, match=r"NAMES_BY_CROP: .*clusters.npz was learnt on other .*weights_sha256 was"):
        names.load_labels(tmp_path)
    write_clusters(tmp_path, options(vit_files[0]), 3)
    with pytest.raises(UsageError, match="has 3 clusters, the model 5 thing classes"):
        names.load_labels(tmp_path)
    (tmp_path / "clusters.npz").write_bytes(b"half a file")
    with pytest.raises(UsageError, match="can't be read"):
        names.load_labels(tmp_path)


def test_a_model_names_what_it_paints_and_keeps_the_centres_but_not_the_network(vit_files, tmp_path):
    plain, named = make(), make("MODEL.U2SEG.NAMES_BY_CROP", "True", *options(vit_files[0]))
    assert named.load_state_dict(plain.state_dict(), strict=False).missing_keys == ["names.centres"]

    def predict(model, least=0.0):
        model.combine_instances_score_thresh = least
        with torch.no_grad():
            return model.eval()(batch())[0]

    before, unnamed = predict(plain), predict(named)
    least = before["instances"].scores.median().item()
    assert torch.equal(before["instances"].pred_classes, unnamed["instances"].pred_classes)
    take_centres(named, [tmp_path / "none", tmp_path])
    write_clusters(tmp_path, options(vit_files[0]), COUNT)
    take_centres(named, [tmp_path / "none", tmp_path])
    after = predict(named, least)
    assert torch.equal(before["instances"].pred_masks, after["instances"].pred_masks)
    changed = before["instances"].pred_classes != after["instances"].pred_classes
    sure = after["instances"].scores >= least
    assert 0 < sure.sum() < len(sure)
    assert changed[sure].any()
    assert not changed[~sure].any()
    painted = {s["category_id"] for s in after["panoptic_seg"][1] if s["isthing"]}
    assert painted <= set(after["instances"].pred_classes[sure].tolist())


def test_any_backbone_can_be_named_by_crops(vit_files):
    """The network of names need not be that of the heads."""
    assert isinstance(make("MODEL.U2SEG.NAMES_BY_CROP", "True", *options(vit_files[0])).names, ClusterNames)
    assert make().names is None

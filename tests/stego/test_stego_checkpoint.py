"""Checkpoints: what they keep; and what is refused."""

import numpy as np
import pytest
import torch

from u2seg.errors import DataError, UsageError
from u2seg.plugins.checks import check_picklable, check_stuff_segmenter, sample_features, sample_image
from u2seg.stego.head import ClusterProbe, CodeHead, StuffCheckpoint, read_checkpoint, write_checkpoint
from u2seg.stego.segmenter import CodeStuff, StegoStuff

FEATURES = {"model": "dino_vits8", "weights_sha256": "00ff", "layer": 11, "facet": "block", "size": [224, 224]}


@pytest.fixture
def trained(tmp_path):
    torch.manual_seed(0)
    head, probe = CodeHead(16, 8), ClusterProbe(8, 5)
    path = tmp_path / "stuff_final.pth"
    write_checkpoint(path, StuffCheckpoint("stego", head.state_dict(), probe.centres, FEATURES))
    return path


def test_the_segmenter_keeps_the_contract(trained):
    segmenter = StegoStuff(num_classes=5, checkpoint=str(trained))
    check_stuff_segmenter(segmenter)
    check_picklable(segmenter)


def test_without_smoothing_it_keeps_the_contract(trained):
    check_stuff_segmenter(StegoStuff(num_classes=5, checkpoint=str(trained), blur=1, min_share=0))


def test_a_checkpoint_reads_back_as_it_was(trained):
    found = read_checkpoint(trained)
    assert (found.method, found.head["linear.weight"].shape, found.centres.shape) == ("stego", (8, 16, 1, 1), (5, 8))
    assert found.features == FEATURES


def test_classes_are_those_nearest_by_cosine(trained):
    features = sample_features(16, 6, 7)
    found = StegoStuff(num_classes=5, checkpoint=str(trained), alpha=2, blur=1, min_share=0).segment(
        sample_image(24, 28), features
    )
    content = read_checkpoint(trained)
    head = CodeHead(16, 8).eval()
    head.load_state_dict(content.head)
    codes = head(torch.from_numpy(features)[None])[0].detach().numpy()
    for row, column in ((0, 0), (3, 4), (5, 6)):
        code = codes[:, row, column]
        cosine = [code @ c / np.linalg.norm(code) / np.linalg.norm(c) for c in content.centres.numpy()]
        expected = np.exp(2 * np.array(cosine))
        assert found[:, row, column] == pytest.approx(expected / expected.sum(), abs=1e-5)


class Stripes:
    """An extractor whose features depend on where they are, so that a mirrored photo differs."""

    dim, stride = 16, 4
    info = FEATURES

    def extract(self, images):
        return [np.tile(image.mean(axis=(0, 2)).reshape(1, 1, -1)[:, :, ::4] / 255, (16, 6, 1)) for image in images]


def test_flip_averages_the_codes_of_the_mirrored_photo(trained):
    image = np.zeros((24, 28, 3), np.uint8)
    image[:, 14:] = 200
    segmenter = StegoStuff(num_classes=5, checkpoint=str(trained))
    plain = segmenter.codes(image, Stripes().extract([image])[0])
    mirrored = segmenter.codes(image, Stripes().extract([image[:, ::-1]])[0])
    segmenter.flip = True
    segmenter.extractor = Stripes()
    both = segmenter.codes(image, Stripes().extract([image])[0])
    assert both == pytest.approx((plain + mirrored[:, :, ::-1]) / 2, abs=1e-5)


def test_flip_without_a_known_extractor_is_refused(trained):
    with pytest.raises(UsageError, match="flip needs the extractor"):
        StegoStuff(num_classes=5, checkpoint=str(trained), flip=True)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("model", "dino_vitb8", "model 'dino_vitb8' instead of 'dino_vits8'"),
        ("weights_sha256", "abcd", "weights_sha256 'abcd' instead of '00ff'"),
        ("layer", 8, "layer 8 instead of 11"),
        ("facet", "key", "facet 'key' instead of 'block'"),
    ],
)
def test_other_features_are_refused_in_words(trained, key, value, words):
    with pytest.raises(UsageError, match=words):
        read_checkpoint(trained).check_features({**FEATURES, key: value}, "c.pth")


def test_another_input_size_is_no_matter(trained):
    read_checkpoint(trained).check_features({**FEATURES, "size": [448, 448]}, "c.pth")


def test_another_number_of_classes_is_refused(trained):
    with pytest.raises(UsageError, match=r"has 5 classes, U2SEG.NUM_STUFF asks for 27"):
        StegoStuff(num_classes=27, checkpoint=str(trained))


def test_another_method_is_refused(trained):
    class OtherStuff(CodeStuff):
        method = "other"

    with pytest.raises(UsageError, match=r"trained by 'stego': set U2SEG.STUFF.NAME to stego, not other"):
        OtherStuff(num_classes=5, checkpoint=str(trained))


def test_features_of_another_width_are_refused(trained):
    segmenter = StegoStuff(num_classes=5, checkpoint=str(trained))
    with pytest.raises(DataError, match="12 channels"):
        segmenter.segment(sample_image(24, 28), sample_features(12, 6, 7))


def test_no_checkpoint_and_a_missing_one_are_told(tmp_path):
    with pytest.raises(UsageError, match=r"set U2SEG.STUFF.ARGS.stego.checkpoint"):
        StegoStuff(num_classes=5)
    with pytest.raises(UsageError, match="does not exist"):
        StegoStuff(num_classes=5, checkpoint=str(tmp_path / "none.pth"))


def test_foreign_and_damaged_files_are_told(tmp_path, trained):
    foreign, model, cut = (tmp_path / f"{name}.pth" for name in ("foreign", "model", "cut"))
    foreign.write_bytes(b"hello")
    torch.save({"model": {"a": torch.zeros(1)}}, model)
    cut.write_bytes(trained.read_bytes()[:-200])
    for path, words in ((foreign, "no checkpoint"), (model, "stuff_final.pth, not model_final"), (cut, "cut.pth")):
        with pytest.raises(DataError, match=words):
            read_checkpoint(path)

"""A model's outputs in Detectron2's format, made of pseudo labels; and Detectron2's own evaluators as the oracle."""

import contextlib
import io
import json

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator, COCOPanopticEvaluator, SemSegEvaluator
from detectron2.structures import BitMasks, Boxes, Instances
from evaluation_data import relabelled
from PIL import Image
from pycocotools import mask as coco_mask

from u2seg.evaluation.evaluator import HungarianPanopticEvaluator
from u2seg.evaluation.matching import RULES, Scoring
from u2seg.evaluation.outputs import join_outputs


def semantic_map(ids, info, space, rng):
    """int (H, W): the stuff of a panoptic map, things and void partly stuff of some photo-wide cluster, too."""
    found = np.where(rng.random(ids.shape) < 0.5, rng.integers(0, space.num_stuff + 1), 0)
    for segment in info:
        if not space.is_thing(segment["category_id"]):
            found[ids == segment["id"]] = segment["category_id"] - space.num_things
    return found


def model_outputs(pseudo, space, extra=None, head=False):
    """Inputs and outputs as Detectron2's PanopticFPN gives them; instances reach under other segments and beyond.

    With ``head``, also the semantic head's scores.
    """
    rng = np.random.default_rng(0)
    given, outputs = [], []
    for number, (ids, info) in enumerate(zip(pseudo.maps, pseudo.infos, strict=True), start=1):
        segments, classes, scores, masks = [], [], [], []
        for segment in info:
            if space.is_thing(segment["category_id"]):
                label = {"isthing": True, "category_id": segment["category_id"] - 1, "instance_id": len(masks)}
                classes.append(segment["category_id"] - 1)
                scores.append(segment["score"])
                masks.append(
                    (ids == segment["id"]) | (np.roll(ids, 1, 0) == segment["id"]) if extra else ids == segment["id"]
                )
                label["score"] = segment["score"]
            else:
                label = {"isthing": False, "category_id": segment["category_id"] - space.num_things}
            segments.append({"id": segment["id"], **label})
        for _ in range(extra or 0):
            masks.append(np.roll(rng.choice(masks) if masks else ids >= 0, 3, 1))
            classes.append(int(rng.integers(space.num_things)))
            scores.append(0.05)
        found = Instances(ids.shape)
        found.pred_masks = torch.from_numpy(np.array(masks, bool).reshape(-1, *ids.shape))
        found.pred_boxes = Boxes(BitMasks(found.pred_masks).get_bounding_boxes().tensor)
        found.pred_classes, found.scores = torch.tensor(classes, dtype=torch.int64), torch.tensor(scores)
        given.append({"image_id": number, "file_name": f"{number}.jpg", "height": ids.shape[0], "width": ids.shape[1]})
        outputs.append({"panoptic_seg": (torch.from_numpy(ids.astype(np.int32)), segments), "instances": found})
        if head:
            label = torch.from_numpy(semantic_map(ids, info, space, np.random.default_rng(number)))
            scores = torch.nn.functional.one_hot(label, space.num_stuff + 1).permute(2, 0, 1)
            outputs[-1]["sem_seg"] = scores.float()
    return given, outputs


def evaluator(folder, space, **options):
    output_dir, distributed = options.pop("output_dir", None), options.pop("distributed", False)
    return HungarianPanopticEvaluator(
        name="test",
        panoptic_json=str(folder / "gt.json"),
        panoptic_root=str(folder / "gt"),
        space=space,
        scoring=Scoring(**{"policies": list(RULES), "seeds": 2, "stuff": "category"} | options),
        output_dir=output_dir,
        distributed=distributed,
    )


def compare_outputs(run):
    """What the evaluator ``run`` scores after its pass."""
    return join_outputs(run._images, run.space, run.taxonomy, run.scoring)


def read_semantic(file, dtype):
    """Detectron2's own reader does not work with numpy 2."""
    return np.asarray(Image.open(file)).astype(dtype)


def oracle_figures(tmp_path, truth, pseudo, space, run, of_cluster, merge=True):
    """Figures of Detectron2's own evaluators, given the class of each category id of the model.

    Without ``merge``, stuff segments of one class in a photo stay several.
    """
    names, isthing = run.taxonomy.names, run.taxonomy.isthing
    things = {int(i) + 1 for i in np.flatnonzero(isthing)}
    known = [
        {"id": i + 1, "name": n, "supercategory": "", "isthing": int(i + 1 in things)} for i, n in enumerate(names)
    ]
    human = relabelled(truth, {key: label + 1 for key, label in run.taxonomy.class_of.items()}, things, known, merge)
    merged = relabelled(pseudo, of_cluster, things, known, merge)
    human.write(tmp_path / "human.json", tmp_path / "human")
    content = json.loads((tmp_path / "human.json").read_text())
    content["annotations"] = []
    for number, (ids, info) in enumerate(zip(human.maps, human.infos, strict=True), start=1):
        for segment in info:
            if segment["category_id"] in things:
                code = coco_mask.encode(np.asfortranarray((ids == segment["id"]).astype(np.uint8)))
                code["counts"] = code["counts"].decode()
                entry = {**segment, "id": len(content["annotations"]) + 1, "image_id": number, "segmentation": code}
                content["annotations"].append(entry)
    content["categories"] = [entry for entry in known if entry["isthing"]]
    (tmp_path / "instances.json").write_text(json.dumps(content))
    dicts = []
    for number, (ids, info) in enumerate(zip(human.maps, human.infos, strict=True), start=1):
        label = np.full(ids.shape, 255, np.uint8)
        for segment in info:
            label[ids == segment["id"]] = segment["category_id"] - 1
        Image.fromarray(label).save(tmp_path / f"semantic{number}.png")
        dicts.append({"file_name": f"{number}.jpg", "sem_seg_file_name": str(tmp_path / f"semantic{number}.png")})
    name = f"oracle {tmp_path}"
    DatasetCatalog.register(name, lambda: dicts)
    MetadataCatalog.get(name).set(
        json_file=str(tmp_path / "instances.json"),
        panoptic_json=str(tmp_path / "human.json"),
        panoptic_root=str(tmp_path / "human"),
        thing_classes=[names[i - 1] for i in sorted(things)],
        stuff_classes=[*names, "no class"],
        thing_dataset_id_to_contiguous_id={i: i - 1 for i in things},
        stuff_dataset_id_to_contiguous_id={i: i - 1 for i in range(1, len(names) + 2)},  # the last for no class
        ignore_label=255,
    )
    given, outputs = model_outputs(pseudo, space, extra=2)
    figures = {}
    with contextlib.redirect_stdout(io.StringIO()):
        evaluators = [
            COCOPanopticEvaluator(name),
            COCOEvaluator(name, ("bbox", "segm"), distributed=False, output_dir=None, use_fast_impl=False),
            SemSegEvaluator(name, distributed=False, output_dir=None, sem_seg_loading_fn=read_semantic),
        ]
        for each in evaluators:
            each.reset()
            for photo, output, ids, info in zip(given, outputs, merged.maps, merged.infos, strict=True):
                segments = [
                    {"id": s["id"], "isthing": s["category_id"] in things, "category_id": s["category_id"] - 1}
                    for s in info
                ]
                found = output["instances"]
                classes = [of_cluster[c + 1] for c in found.pred_classes.tolist()]
                kept = found[torch.tensor([c is not None for c in classes], dtype=torch.bool)]
                kept.pred_classes = torch.tensor([c - 1 for c in classes if c is not None], dtype=torch.int64)
                label = np.full(ids.shape, len(names))
                for segment in info:
                    label[ids == segment["id"]] = segment["category_id"] - 1
                one_hot = torch.nn.functional.one_hot(torch.from_numpy(label), len(names) + 1).permute(2, 0, 1)
                whole = torch.from_numpy(ids.astype(np.int32)), segments
                each.process([photo], [{"panoptic_seg": whole, "instances": kept, "sem_seg": one_hot}])
            figures |= each.evaluate()
    return figures

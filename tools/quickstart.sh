#!/usr/bin/env bash
# Install everything, label a few photos, train a small model on the labels: bash tools/quickstart.sh [OUTPUT_DIR]
set -euo pipefail
case "${1:-}" in
  -h | --help)
    echo "usage: bash tools/quickstart.sh [OUTPUT_DIR]"
    echo "Makes .venv, installs u2seg with Detectron2, labels the photos that scikit-image and scikit-learn ship,"
    echo "trains a small model on them for a few minutes, and writes a gallery of labels and predictions."
    echo "OUTPUT_DIR is quickstart_output by default. A second run installs nothing and resumes;"
    echo "U2SEG_QUICKSTART_TRAIN=0 ends with the labels."
    exit 0 ;;
esac
cd "$(dirname "$0")/.."
output="${1:-quickstart_output}"
. tools/environment.sh
ensure_environment detectron2,photos
say "photos that pip delivers"
python tools/sample_photos.py "$output/photos"
say "labels"
python tools/generate_pseudo.py --config-file configs/pseudo/quickstart.yaml --images "$output/photos" --output "$output/labels"
gallery=("$output/labels" --output "$output/gallery")
if [ "${U2SEG_QUICKSTART_TRAIN:-1}" != 0 ]; then
  config=configs/COCO-PanopticSegmentation/u2seg_ViTS14_quickstart.yaml
  # Threads that wait should sleep: where something else keeps a core busy, spinning ones make a step several times slower.
  export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
  say "training a small model on these labels (a few minutes; $output/model/log.txt has everything)"
  PYTHONWARNINGS=ignore python tools/train_net.py --num-gpus 0 --resume --config-file "$config" \
    DATASETS.TRAIN "$output/labels" OUTPUT_DIR "$output/model" |
    sed -un 's/.*eta: *\([^ ]*\) *iter: *\([0-9]*\) *total_loss: *\([0-9.]*\).*/iteration \2, loss \3, \1 left/p'
  say "predictions"
  # So short a training makes timid scores; the usual threshold is 0.5.
  python tools/demo.py --config-file "$config" --input "$output/photos" --output "$output/predictions" \
    --save-panoptic "$output/predicted_labels" --confidence-threshold 0.35 \
    --opts MODEL.WEIGHTS "$output/model/model_final.pth" MODEL.DEVICE cpu
  gallery+=(--predictions "$output/predicted_labels")
fi
say "gallery"
python tools/visualize_pseudo.py "${gallery[@]}"
echo "open $output/gallery/index.html"

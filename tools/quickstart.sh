#!/usr/bin/env bash
# Install everything and make a pseudo-panoptic dataset from a few photos: bash tools/quickstart.sh [OUTPUT_DIR]
set -euo pipefail
case "${1:-}" in
  -h | --help)
    echo "usage: bash tools/quickstart.sh [OUTPUT_DIR]"
    echo "Makes .venv, installs u2seg with Detectron2, labels the photos that scikit-image and scikit-learn ship,"
    echo "and writes a gallery. OUTPUT_DIR is quickstart_output by default. A second run re-installs nothing."
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
say "gallery"
python tools/visualize_pseudo.py "$output/labels" --output "$output/gallery"
echo "open $output/gallery/index.html"

"""Metadata of u2seg: the one home of its version bounds, extras and entry points."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (HERE / "u2seg" / "__init__.py").read_text(encoding="utf-8")).group(1)

EXTRAS = {
    # The refiner that the paper uses; builds with a C++ compiler on Python 3.10 to 3.12.
    "crf": ["pydensecrf2>=1.1"],
    # Label generation on a cluster.
    "dask": ["dask[distributed]>=2024.8"],
    # COCO scores some 20 times faster, to the same last digit.
    "fast": ["hotcoco>=1.3.0", "kornia-rs>=0.2.0"],
    # Films in tools/demo.py.
    "video": ["av>=15.0"],
    # The photos of tools/quickstart.sh.
    "photos": ["scikit-image>=0.24"],
    # What Detectron2 itself needs; it is installed apart, see README.
    "detectron2": [
        "cloudpickle>=3.0",
        "hydra-core>=1.3",
        "omegaconf>=2.3,<2.4",
        "opencv-python-headless>=4.9",
        "packaging>=23.0",
        "tensorboard>=2.16",
        "termcolor>=2.4",
        "yacs>=0.1.8",
    ],
    "dev": [
        "hypothesis>=6.100",
        "mypy>=1.11",
        "playwright>=1.45",
        "pytest>=8.0",
        "pytest-xdist>=3.6",
        "ruff>=0.6",
        "scikit-image>=0.24",
    ],
}

setup(
    name="u2seg",
    version=VERSION,
    description="Unsupervised universal image segmentation on Detectron2, with plugins for every part of the recipe",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["u2seg", "u2seg.*"]),
    package_data={"u2seg": ["py.typed", "report/templates/*"]},
    # Detectron2 is not listed: upstream is not on PyPI, and its repackaged wheels pin an old numpy. See README.
    install_requires=[
        "torch>=2.4",
        "torchvision>=0.19",
        "timm>=1.0.9",
        "safetensors>=0.4",
        "fvcore>=0.1.5.post20221221",
        "iopath>=0.1.9",
        "scikit-learn>=1.5",
        "numpy>=1.26",
        "scipy>=1.13",
        "Pillow>=10.3",
        "pycocotools>=2.0.8",
        "pluggy>=1.5",
        "filelock>=3.12",
        "huggingface_hub>=0.23",
        "threadpoolctl>=3.5",
        "tqdm>=4.66",
        "jinja2>=3.1",
        "tabulate>=0.9",
        "matplotlib>=3.9",
        "onnx>=1.16",
        "PyYAML>=6.0",
    ],
    extras_require=EXTRAS,
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)

"""Packaging: distribution and command `narrador`; each folder is the package it is called."""

from pathlib import Path

from setuptools import find_packages, setup

EXTRAS = {
    "test": ["pytest>=8", "pytest-timeout>=2.3", "pytest-xdist>=3.6", "hypothesis>=6.100", "beartype>=0.20"],
    # Other implementations to compare with. CI installs a CPU build of torch.
    "oracle": ["torch>=2.6", "transformers>=5"],
    # PPO to measure ours beside: the last TRL that has one, and a transformers that it runs with.
    "bench": ["torch>=2.6", "transformers==5.15.1", "trl==1.12.0"],
    "tpu": ["jax[tpu]>=0.10"],  # libtpu: to run on TPUs, and to compile for those that are not there
    "cuda": ["jax[cuda13]>=0.10"],
    "tensorboard": ["tensorboard>=2.18", "tensorboardX>=2.6.2"],
    "tfds-prepare": ["tensorflow>=2.18"],
}

setup(
    name="narrador",
    version="0.1.0",
    description="A language model built for real, in the open: pre-training, alignment, scale and looking inside",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["model*", "train*", "rlhf*", "serve*", "experiments*"]),
    install_requires=[
        "jax>=0.10",
        "flax>=0.12",
        "optax>=0.2.6",
        "orbax-checkpoint>=0.11.25",
        "tensorflow-datasets>=4.9.10",
        "importlib_resources>=6",  # tensorflow-datasets needs it and does not say so
        "grain>=0.2.12",
        "array_record>=0.8",
        "tokenizers>=0.22",
        "jaxtyping>=0.3",
        "numpy>=2",
        "scipy>=1.14",
        "pydantic>=2.10",
        "jinja2>=3.1",
        "tyro>=1.0",
        "rich>=13.9",
        "pyyaml>=6",
        "matplotlib>=3.9",
        "optuna>=5",
        "markdown-it-py>=3",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["narrador=experiments.cli:main"]},
)

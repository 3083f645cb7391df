"""Packages of the wheel: nemo_birq, and conf/ as nemo_birq.conf. Everything else stands in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["nemo_birq", "nemo_birq.*"]), "nemo_birq.conf"],
    package_dir={"nemo_birq.conf": "conf"},
)

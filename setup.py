"""Names the packages: the folders of package-dir in pyproject.toml, and what is inside them."""

import tomllib

from setuptools import find_packages, setup

with open("pyproject.toml", "rb") as file:
    folders: dict[str, str] = tomllib.load(file)["tool"]["setuptools"]["package-dir"]

setup(packages=[*folders, *(f"{top}.{name}" for top, folder in folders.items() for name in find_packages(folder))])

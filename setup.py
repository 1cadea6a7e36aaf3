"""Maps the code folders at the root of the repository to sub-packages of gradax.

Everything static stands in pyproject.toml; only the list of rooms is discovered here, so
that a new room needs no registration.
"""

from setuptools import find_packages, setup

FOLDERS = ("optimizers", "schedules", "federated")

packages = find_packages(include=["gradax", "gradax.*"])
for folder in FOLDERS:
    packages.append(f"gradax.{folder}")
    packages.extend(f"gradax.{folder}.{room}" for room in find_packages(folder))

setup(
    packages=packages,
    package_dir={f"gradax.{folder}": folder for folder in FOLDERS},
    package_data={"gradax": ["py.typed"]},
)

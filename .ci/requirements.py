"""Print the project's requirements, development extras included, one argument each."""

import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
for requirement in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
    if "platform_system" in requirement:
        import platform

        requirement, _, marker = requirement.partition(";")
        if platform.system() not in marker:
            continue
    print(requirement.replace(" ", ""))

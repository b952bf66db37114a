"""Readers of the documentation of cloud services in their Python packages: one document per operation or structure."""

from __future__ import annotations

import gzip
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinylm_ablate.data.prose import Thinner, described

#: Docstrings of a class and of its properties in generated Python.
_CLASS = re.compile(r'\nclass (\w+)\([\w.]*\):\n\s+r?"""(.*?)"""', re.DOTALL)
_PROPERTY = re.compile(r'\n    @property\n    def (\w+)\(self\):\n\s+r?"""(.*?)"""', re.DOTALL)
#: Start of the fields, where the prose of a docstring ends.
_FIELDS = re.compile(r"(?m)^\s*:\w+.*", re.DOTALL)


def read_aws(wheel: Path) -> Iterator[str]:
    """Operations and structures of Amazon's services (botocore)."""
    thin = Thinner()
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if not name.endswith("/service-2.json.gz"):
                continue
            service = json.loads(gzip.decompress(archive.read(name)))
            title = service["metadata"].get("serviceFullName", "")
            yield from filter(None, [described(title, service.get("documentation", ""), (), thin)])
            for kind in ("operations", "shapes"):
                for item, entry in sorted(service[kind].items()):
                    members = ((key, value.get("documentation", "")) for key, value in entry.get("members", {}).items())
                    yield from filter(None, [described(item, entry.get("documentation", ""), members, thin)])


def read_google(wheel: Path) -> Iterator[str]:
    """Methods and structures of Google's services (google-api-python-client)."""
    thin = Thinner()
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if name.startswith("googleapiclient/discovery_cache/documents/") and name.endswith(".json"):
                service = json.loads(archive.read(name))
                yield from filter(None, [described(service.get("title", ""), service.get("description", ""), (), thin)])
                for title, entry in [*sorted(service.get("schemas", {}).items()), *_methods(service)]:
                    about = entry.get("properties", {}) | entry.get("parameters", {})
                    members = ((key, value.get("description", "")) for key, value in about.items())
                    yield from filter(None, [described(title, entry.get("description", ""), members, thin)])


def _methods(resource: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for _, method in sorted(resource.get("methods", {}).items()):
        yield method.get("id", ""), method
    for _, child in sorted(resource.get("resources", {}).items()):
        yield from _methods(child)


def read_tencent(wheel: Path) -> Iterator[str]:
    """Structures of Tencent's services, in Chinese (tencentcloud-sdk-python)."""
    thin = Thinner()
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if not name.endswith("/models.py"):
                continue
            source = archive.read(name).decode()
            found = list(_CLASS.finditer(source))
            ends = [*(match.start() for match in found[1:]), len(source)][: len(found)]
            for match, end in zip(found, ends, strict=True):
                members = ((key, _FIELDS.sub("", said)) for key, said in _PROPERTY.findall(source, match.end(), end))
                yield from filter(None, [described(match[1], _FIELDS.sub("", match[2]), members, thin)])

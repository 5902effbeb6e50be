"""What lies in a warehouse: where, what beside the tables is in use, and how it is written and checked.

<warehouse>/tables/<table>/                a Delta table (precise_core/warehouse)
            checkpoints/<model_version>/   a checkpoint; latest-<key>.json names the one in use, for each task
            indexes/<index_version>/       an index of item vectors
            rankers/<ranker_version>/      a ranking model; latest.json names those in use, by system
            list_rankers/<ranker_version>/ a ranking model of lists; latest.json names the one in use
                         .training-*.tmp/  what a training of lists that is under way has finished
            catalogs/                      item catalogs, as executors read them
            erasures/                      who was erased, and the proofs
            readers/                       who reads tables now
            serving/                       what a server maps, made from the tables; the server removes what is old
            logs/                          of runs that failed
            sizes.json                     sizes that were chosen by the log
            rollback.json                  there while tables are on their way back

The folder of a checkpoint, an index or a ranking model is written whole or not at all, and lists its files in
SHA256SUMS.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from precise_core.errors import CheckpointError
from precise_core.store import Place, below, new_folder, store_at
from precise_core.store.sums import write_sums

CHECKPOINTS, INDEXES, RANKERS, CATALOGS = "checkpoints", "indexes", "rankers", "catalogs"
LIST_RANKERS = "list_rankers"
TABLES, ERASURES, READERS, LOGS = "tables", "erasures", "readers", "logs"
SERVING = "serving"
ROLLBACK_JOURNAL = "rollback.json"
SIZES = "sizes.json"
REPORT = "report.html"  # beside the warehouse
# What a run calls its products in `runs.artefacts` (`checkpoint:<task>`, `ranker:<system>`), and where they lie.
FOLDERS = {"checkpoint": CHECKPOINTS, "index": INDEXES, "ranker": RANKERS, "list_ranker": LIST_RANKERS}

MANIFEST_FILE = "manifest.json"


def artefact_folder(warehouse: Place, key: str, version: str) -> Place:
    """The folder of something that a run calls ``key`` (`checkpoint:<task>`, `index:<task>`, `ranker:<system>`)."""
    return below(warehouse, FOLDERS[key.partition(":")[0]], version)


def artefacts_in_use(warehouse: Place) -> dict[str, str]:
    """`checkpoint:<key>`, `ranker:<system>` and `list_ranker:lists` -> version, of all that a pointer names."""
    in_use = {
        "checkpoint": checkpoints_in_use(below(warehouse, CHECKPOINTS)),
        "ranker": rankers_in_use(warehouse),
        "list_ranker": rankers_in_use(warehouse, LIST_RANKERS),
    }
    return {f"{kind}:{key}": version for kind, versions in in_use.items() for key, version in versions.items()}


def checkpoint_pointer(key: str) -> str:
    """The object that names the checkpoint in use for ``key``, a task or ``untrained``, among the checkpoints."""
    if not key.replace("_", "").isalnum():
        raise CheckpointError(f"task {key!r}: letters, digits and _ only")
    return f"latest-{key}.json"


def has_checkpoint(checkpoints: Place, key: str) -> bool:
    """Whether a checkpoint is in use for ``key``."""
    return store_at(checkpoints).get(checkpoint_pointer(key)) is not None


def checkpoints_in_use(checkpoints: Place) -> dict[str, str]:
    """model_version by key, sorted by key."""
    store, in_use = store_at(checkpoints), {}
    for name in store.names():
        if name.startswith("latest-") and name.endswith(".json") and (pointer := store.get(name)):
            in_use[name.removeprefix("latest-").removesuffix(".json")] = str(json.loads(pointer.text)["model_version"])
    return in_use


def checkpoint_manifest(checkpoints: Place, model_version: str) -> dict[str, Any]:
    """The manifest of a checkpoint, unverified; empty where its folder was removed."""
    found = store_at(checkpoints).get(f"{model_version}/{MANIFEST_FILE}")
    return dict(json.loads(found.text)) if found else {}


def rankers_in_use(warehouse: Place, folder: str = RANKERS) -> dict[str, str]:
    """ranker_version by system, of lists under `lists`; empty where no training has had anything to learn from yet."""
    pointer = store_at(warehouse).get(_ranker_pointer(folder))
    return dict(json.loads(pointer.text)) if pointer else {}


def has_rankers(warehouse: Place, folder: str = RANKERS) -> bool:
    """Whether a training has ever said which ranking models are in use, be it none."""
    return store_at(warehouse).get(_ranker_pointer(folder)) is not None


def put_rankers_in_use(warehouse: Place, versions: Mapping[str, str], folder: str = RANKERS) -> None:
    """Make these ranker_versions, by system, the ones in use, in one step."""
    store_at(warehouse).put(_ranker_pointer(folder), json.dumps(dict(versions), indent=2))


def _ranker_pointer(folder: str) -> str:
    return f"{folder}/latest.json"


def write_model(
    out: Place, name: str, files: Mapping[str, bytes], about: Mapping[str, Any], about_file: str, version_key: str
) -> Place:
    """A folder `<name>-<hash of its content>` below ``out`` with the files and, as JSON, what is said about them.

    The version stands in ``about_file`` under ``version_key``; nothing is left behind where it fails.
    """
    content = b"".join(files[file] for file in sorted(files)) + json.dumps(about, sort_keys=True).encode()
    version = f"{name}-{hashlib.sha256(content).hexdigest()[:12]}"
    with new_folder(below(out, version)) as target:
        for file, data in files.items():
            (target / file).write_bytes(data)
        text = json.dumps({version_key: version, **about}, indent=2, sort_keys=True)
        (target / about_file).write_text(text + "\n", encoding="utf-8")
        write_sums(target)
    return below(out, version)

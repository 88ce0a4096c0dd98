"""A revision of a git repository in a folder of its own, for as long as it is needed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modtrace.errors import UsageError
from modtrace.text import plain


@contextmanager
def worktree(revision: str, folder: Path) -> Iterator[Path]:
    """A revision checked out beside the working tree, removed at the end: the folder there that stands for `folder`.

    Args:
        revision: a commit, branch or tag.
        folder: a folder of the repository.

    Raises:
        UsageError: there is no git, no repository, no such revision, or the folder is not in it.
    """
    if revision.startswith("-"):
        raise UsageError(f"--git takes a revision, not {plain(revision, 40)!r}")
    top = Path(_git(folder, "rev-parse", "--show-toplevel").strip())
    commit = _git(folder, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", told=revision).strip()
    with tempfile.TemporaryDirectory(prefix="modtrace-") as made:
        tree = Path(made) / "tree"
        _git(top, "worktree", "add", "--detach", "--quiet", str(tree), commit)
        try:
            inside = tree / folder.resolve().relative_to(top.resolve())
            if not inside.is_dir():
                raise UsageError(
                    f"{plain(revision, 40)} has no folder {plain(str(inside.relative_to(tree)))}"
                )
            yield inside
        finally:
            subprocess.run(
                [_program(), "-C", str(top), "worktree", "remove", "--force", str(tree)],
                capture_output=True,
                check=False,
            )


def _program() -> str:
    """The path of git.

    Raises:
        UsageError: it is not there.
    """
    path = shutil.which("git")
    if path is None:
        raise UsageError("--git needs git, which is not here")
    return path


def _git(folder: Path, *words: str, told: str = "") -> str:
    """The output of git.

    Raises:
        UsageError: it is not there, or says no.
    """
    done = subprocess.run(
        [_program(), "-C", str(folder), *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = plain(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "", 200)
        raise UsageError(f"there is no revision {plain(told, 60)}" if told else f"git says: {reason or 'no'}")
    return done.stdout

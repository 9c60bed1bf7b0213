"""What `clusterctl local` says comes next can be pasted as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.testing.layout import CONFIG_NAME, Shape, build, to_toml
from holdfast_ctl.cli import main


@pytest.mark.parametrize("before", [True, False])
def test_what_was_lost_is_replaced_where_it_was_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], before: bool
) -> None:
    """Every one of them, and in this cluster, wherever its directory was named."""
    root = tmp_path / "a cluster"
    root.mkdir()
    (root / CONFIG_NAME).write_text(to_toml(build(Shape(), root, "x")))
    lose = ["local", "lose", "n1", "san=b", "--yes"]
    assert main(["--dir", str(root), *lose] if before else [*lose, "--dir", str(root)]) == 0
    program = f"clusterctl --dir '{root}'"
    assert capsys.readouterr().err.strip() == (
        f"next: {program} local start n1 san=b && {program} node replace --lost n1 && "
        f"{program} node replace --lost san=b"
    )

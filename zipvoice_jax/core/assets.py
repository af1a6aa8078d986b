"""Where the package keeps its data: token tables, and the model and prompts of the demo."""

from pathlib import Path

ASSETS = Path(__file__).resolve().parents[1] / "assets"
DEMO = ASSETS / "demo"

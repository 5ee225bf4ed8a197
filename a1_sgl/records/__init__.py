"""The record of a run: one folder, append-only, resumable. Nothing else writes run data."""

from a1_sgl.records.folder import ChainRecord, Finished, GradeRecord, RunFolder, discard, head
from a1_sgl.records.recorder import Recorder

__all__ = ["ChainRecord", "Finished", "GradeRecord", "Recorder", "RunFolder", "discard", "head"]

"""For tests of programs, gates and listeners of one's own: an engine without a model.

backend = Backend(Roles.pair(FakeEngine("1 + 1 = 2\\n"), FakeEngine(scores=-3.0)))
result = my_program.run(question="What is 1 + 1?", backend=backend, gate=gate).ret_value
"""

from a1_sgl.engine.fake import FakeCall, FakeEngine, FakeTokenizer

__all__ = ["FakeCall", "FakeEngine", "FakeTokenizer"]

"""On PYTHONPATH of a process: vLLM takes Triton's interpreter (TRITON_INTERPRET=1) for a Triton that has a CPU.

vLLM's V2 model runner wants Triton, which has no CPU backend here; its interpreter runs the same kernels, slowly.
vLLM only looks whether there is a backend called "cpu".
"""

import importlib.abc
import importlib.util
import sys
from types import SimpleNamespace


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "triton.backends":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            module.backends.setdefault("cpu", SimpleNamespace(driver=SimpleNamespace(is_active=lambda: True)))

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, _Finder())

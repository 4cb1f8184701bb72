"""Builds the optional C extensions; all metadata is in pyproject.toml.

``GWS_SPEEDUPS=1`` makes a failed build an error, ``GWS_SPEEDUPS=0`` builds none; unset, they are built where a compiler
is found and the pure Python code does the whole job elsewhere.
"""

import os

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel

choice = os.environ.get("GWS_SPEEDUPS", "")
if choice not in ("", "0", "1"):
    raise SystemExit(f"GWS_SPEEDUPS is {choice!r}: set it to 1 (must build), 0 (must not) or leave it unset")

# The loop that unmasks is a third slower or faster by where the linker happens to put it; aligned, it is always fast.
FLAGS = ["-O3", "-falign-loops=64"]

extensions = [
    Extension(
        name,
        [name.replace(".", "/") + ".c"],
        depends=["gws_middleware/_native.h"],
        extra_compile_args=FLAGS,
        optional=choice != "1",
    )
    for name in (
        "gws_middleware.connection._channel",
        "gws_middleware.connection._fastpath",
        "gws_middleware.protocol._speedups",
    )
]


class Wheel(bdist_wheel):
    """A wheel without any extension is tagged py3-none-any: it is not bound to the machine on which a build failed."""

    def run(self):
        self.run_command("build_ext")
        if not any(map(os.path.exists, self.get_finalized_command("build_ext").get_outputs())):
            self.distribution.ext_modules = []
            self.root_is_pure = True
        super().run()


setup(ext_modules=[] if choice == "0" else extensions, cmdclass={"bdist_wheel": Wheel})

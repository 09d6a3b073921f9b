"""Compiled files: those of every module, and bundles of all that one CGI script needs.

The import system spends as long on finding a module and reading its file as the module's own code takes, a
tenth of a whole request for all of them.  A bundle is one file, ``__pycache__/check.cpython-311.bundle``, that
``limiter.preload`` reads in one go:

* 16 bytes as a .pyc file has them (PEP 552): the interpreter's magic number, the flags of an unchecked
  hash, and the hash of all sources one after the other,
* a list of names and code objects (``marshal``) in the order in which the modules need each other, compiled
  without docstrings and annotations: to load these would take 2 % of a request.

Neither these nor the .pyc files are ever compared with their sources again, which is what makes them fast:
after every change of either the sources or Python they must be made anew.
"""

import ast
import compileall
import marshal
import sys
from importlib.util import MAGIC_NUMBER, source_hash
from pathlib import Path
from py_compile import PycInvalidationMode
from types import CodeType

_CHECK = (
    "limit",
    "store",
    "notation",
    "hit",
    "request",
    "response",
    "settings",
    "deadline",
    "verdict",
    "cgi",
)
BUNDLES = {
    "check": _CHECK,
    "guard": (*_CHECK, "action"),
    "health": (*_CHECK, "furnish", "health"),
}
"""The modules of each bundle."""

HERE = Path(__file__).parent


def compile_all(package: Path = HERE, shown_as: "str | None" = None) -> None:
    """Compile the package in that directory for this interpreter.

    ``shown_as`` is the directory that tracebacks name, if that is another.  Raises OSError if a file cannot
    be written.
    """
    shown = str(package) if shown_as is None else shown_as
    done = compileall.compile_dir(
        str(package),
        ddir=shown,
        force=True,
        quiet=1,
        invalidation_mode=PycInvalidationMode.UNCHECKED_HASH,
    )
    if not done:
        raise OSError(f"Not all of {package} could be compiled")
    for name, modules in BUNDLES.items():
        code = [(f"limiter.{it}", _compile(package, it, f"{shown}/{it}.py")) for it in modules]
        path(package, name).write_bytes(header(package, name) + marshal.dumps(code))


def header(package: Path, name: str) -> bytes:
    """The first 16 bytes of a bundle that is made from the present sources by this interpreter."""
    sources = b"".join([_source(package, module) for module in BUNDLES[name]])
    return MAGIC_NUMBER + b"\1\0\0\0" + source_hash(sources)


def path(package: Path, name: str) -> Path:
    """Where that bundle is."""
    return package / "__pycache__" / f"{name}.{sys.implementation.cache_tag}.bundle"


def _compile(package: Path, module: str, shown: str) -> CodeType:
    tree = _Stripper().visit(ast.parse(_source(package, module)))
    return compile(ast.fix_missing_locations(tree), shown, "exec", optimize=2)


class _Stripper(ast.NodeTransformer):
    """Removes what is for readers and type checkers alone."""

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        bare = ast.Pass() if node.value is None else ast.Assign([node.target], node.value)
        return ast.copy_location(bare, node)

    def visit_If(self, node: ast.If) -> "ast.AST | None":
        is_for_types = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        return None if is_for_types else self.generic_visit(node)


def _source(package: Path, module: str) -> bytes:
    return (package / f"{module}.py").read_bytes()

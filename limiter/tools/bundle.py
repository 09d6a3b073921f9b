"""Compiled files: one for each module, and bundles with all modules that one CGI script needs.

To find a module and read its file takes as long as to run its code: a tenth of a request in all.  A
bundle is one file, such as ``__pycache__/check.cpython-311.bundle``, that ``limiter.preload`` reads at
once.  It begins as an unchecked .pyc file (PEP 552) does.  Then follow names and code objects, in the
order in which the modules need each other, without docstrings and annotations.  Bundles are never
compared with their sources: make them again after every change of the sources or of Python.
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
    "core.limit",
    "core.store",
    "core.notation",
    "core.decision",
    "core.hit",
    "request.key",
    "request.response",
    "request.settings",
    "request.deadline",
    "request.gate",
    "report.problems",
    "cgi",
)
BUNDLES = {
    "check": _CHECK,
    "guard": (*_CHECK, "request.script_deadline", "apache.guard"),
    "health": (
        *_CHECK,
        *("core.cell", "core.directories", "core.removal", "core.furnish", "core.space"),
        *("core.newcomers", "core.trial", "apache.health"),
    ),
}
"""The modules of each bundle."""

HERE = Path(__file__).parents[1]


def compile_all(package: Path = HERE, shown_as: "str | None" = None) -> None:
    """Compile the package in that directory, and its bundles, for this interpreter.

    ``shown_as`` is the directory that tracebacks name (default: ``package``).  Raises OSError if a file
    cannot be written.
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
        code = [(f"limiter.{it}", _compile(package, it, f"{shown}/{_file(it)}")) for it in modules]
        path(package, name).write_bytes(header(package, name) + marshal.dumps(code))


def header(package: Path, name: str) -> bytes:
    """Return the first 16 bytes of a bundle that this interpreter would make from the present sources."""
    sources = b"".join([_source(package, module) for module in BUNDLES[name]])
    return MAGIC_NUMBER + b"\1\0\0\0" + source_hash(sources)


def path(package: Path, name: str) -> Path:
    """Return the path of that bundle for this interpreter."""
    return package / "__pycache__" / f"{name}.{sys.implementation.cache_tag}.bundle"


def _compile(package: Path, module: str, shown: str) -> CodeType:
    tree = _Stripper().visit(ast.parse(_source(package, module)))
    for node in ast.walk(ast.fix_missing_locations(tree)):
        if isinstance(node, (ast.expr, ast.stmt)):
            # A log line names the line, not the columns.
            node.col_offset = node.end_col_offset = 0
            node.end_lineno = node.lineno
    return compile(tree, shown, "exec", optimize=2)


class _Stripper(ast.NodeTransformer):
    """Removes what only readers and type checkers need."""

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
    return (package / _file(module)).read_bytes()


def _file(module: str) -> str:
    return f"{module.replace('.', '/')}.py"

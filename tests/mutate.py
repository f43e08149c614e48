"""Changes the package in one place at a time, and counts the changes that a quick test notices.

    python tests/mutate.py [--number N] [--only TEXT] [tests ...]

One process imports the backend and collects the tests. For each mutant it forks, puts the changed
code into the function, and runs the tests that reach the changed line, those of different names
first, until one fails. What survives must stand in mutants.toml, with the reason.
"""

import argparse
import ast
import collections
import copy
import inspect
import itertools
import json
import os
import pathlib
import random
import signal
import sys
import tempfile
import time
import tomllib

os.environ |= {"OMP_NUM_THREADS": "1", "KERAS_BACKEND": os.environ.get("KERAS_BACKEND", "torch")}

import coverage
import pytest

import keras_unpatchify

HERE = pathlib.Path(__file__).parent
PACKAGE = pathlib.Path(keras_unpatchify.__file__).parent
QUICK = (
    "not compile and not learns and not isolation and not thread and not opened and not examples"
)
SECONDS = 20  # of the tests of a mutant, as long as they take without it
LEAST = 0.95

SWAPS = [
    {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq},
    {ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In},
    {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult},
    {ast.Div: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.And: ast.Or, ast.Or: ast.And},
]
SWAPS = {old: new for table in SWAPS for old, new in table.items()}


def changed(node):
    """Copies of a node with one change each."""

    def but(**fields):
        new = copy.copy(node)
        for name, value in fields.items():
            setattr(new, name, value)
        return new

    if isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in SWAPS:
        yield but(op=SWAPS[type(node.op)]())
    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            yield but(ops=[*node.ops[:i], SWAPS[type(op)](), *node.ops[i + 1 :]])
    if isinstance(node, ast.UnaryOp):
        yield node.operand
    if isinstance(node, ast.Constant) and not isinstance(
        node.value, (bytes, type(...), type(None))
    ):
        value = node.value
        kinds = {bool: lambda: not value, str: lambda: f"{value}_", int: lambda: value + 1}
        yield but(value=kinds.get(type(value), lambda: value + 1)())
    if isinstance(node, (ast.If, ast.IfExp, ast.While)):
        yield from (but(test=ast.Constant(value)) for value in (True, False))
    if isinstance(node, ast.comprehension):
        yield from (but(ifs=[x for x in node.ifs if x is not drop]) for drop in node.ifs)
    if isinstance(node, ast.Call):
        for drop in node.keywords:
            yield but(keywords=[x for x in node.keywords if x is not drop])
    if isinstance(node, (ast.Expr, ast.AugAssign, ast.Raise, ast.Continue)):
        yield ast.Pass()
    if isinstance(node, ast.Return) and node.value is not None:
        yield but(value=ast.Constant(None))


class Mutant:
    """A module with one node of a function replaced."""

    def __init__(self, path, tree, function, node, new):
        self.path, self.tree, self.function, self.node, self.new = path, tree, function, node, new
        before, after = (" ".join(ast.unparse(n).split("\n")[0].split()) for n in (node, new))
        self.name = f"{path.stem}.{function}: {before} -> {after}"
        self.lines = range(node.lineno, max(node.lineno, getattr(node, "end_lineno", 0)) + 1)

    def code(self):
        """The changed code of the function."""

        class Replace(ast.NodeTransformer):
            def visit(visitor, node):
                return self.new if node is self.node else super().visit(node)

        # nodes on the way are changed in place: this runs in a process of its own
        tree = ast.fix_missing_locations(Replace().visit(self.tree))
        code = compile(tree, str(self.path), "exec")
        for part in self.function.split("."):
            (code,) = [c for c in code.co_consts if getattr(c, "co_name", None) == part]
        return code

    def put(self):
        target = sys.modules[f"keras_unpatchify.{self.path.stem}"]
        for part in self.function.split("."):
            target = inspect.getattr_static(target, part)
        target = getattr(target, "fget", None) or getattr(target, "__func__", target)
        inspect.unwrap(target).__code__ = self.code()


def functions(tree, prefix=""):
    """Functions of a module and methods of its classes, by qualified names."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from functions(node, f"{prefix}{node.name}.")
        if isinstance(node, ast.FunctionDef):
            yield f"{prefix}{node.name}", node


def inside(node):
    """The nodes of a function's body but for docstrings, f-strings and annotations."""
    for child in ast.iter_child_nodes(node):
        docstring = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
        if not docstring and not isinstance(child, (ast.JoinedStr, ast.arguments)):
            yield child
            yield from inside(child)


def mutants():
    """Every mutant; equal changes in one function are numbered."""
    seen = collections.Counter()
    for mutant in unnumbered():
        seen[mutant.name] += 1
        if seen[mutant.name] > 1:
            mutant.name += f" #{seen[mutant.name]}"
        yield mutant


def unnumbered():
    for path in sorted(PACKAGE.glob("*.py")):
        tree = ast.parse(path.read_text())
        for name, function in functions(tree):
            decorators = {id(n) for d in function.decorator_list for n in ast.walk(d)}
            parts = [function.returns] if function.returns else []
            annotations = {id(n) for part in parts for n in ast.walk(part)}
            for node in inside(function):
                if id(node) not in decorators | annotations and hasattr(node, "lineno"):
                    for new in changed(node):
                        yield Mutant(path, tree, name, node, ast.copy_location(new, node))


class Tests:
    """A plugin that keeps the tests that are collected, and runs some of them in forks."""

    def __init__(self, number, only):
        self.number, self.only, self.failed, self.survivors = number, only, False, []

    def pytest_runtest_logreport(self, report):
        self.failed |= report.failed

    def pytest_runtestloop(self, session):
        self.items = session.items
        self.reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        self.reach()
        rng, every = random.Random(0), [m for m in mutants() if self.only in m.name]
        chosen = rng.sample(every, min(self.number, len(every)))
        running, start = {}, time.time()
        for i, mutant in enumerate([*chosen, None, None]):
            while len(running) >= (2 if mutant else 1) and running:
                pid, status = os.wait()
                name = running.pop(pid)
                if status == 0:
                    self.survivors.append(name)
                    print(f"survives: {name}", flush=True)
            if mutant is None:
                continue
            running[self.fork(mutant)] = mutant.name
            if i % 25 == 24:
                print(f"{i + 1} of {len(chosen)}, {time.time() - start:.0f} s", flush=True)
        self.total = len(chosen)
        return True

    def fork(self, mutant):
        """A process that ends with 0 if no test fails."""
        pid = os.fork()
        if pid:
            return pid
        signal.alarm(15 * SECONDS)
        nowhere = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        self.reporter._tw._file = nowhere
        try:
            mutant.put()
        except Exception:
            os._exit(3)
        self.run(self.of(mutant))
        os._exit(1 if self.failed else 0)

    def run(self, items):
        for item, following in itertools.zip_longest(items, items[1:]):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self.failed:
                return

    def of(self, mutant):
        """Tests that reach the mutant: of each name one, then the next, for so many seconds."""
        lines = {f"{mutant.path.name}:{n}" for n in mutant.lines}
        reaching = [i for i in self.items if lines & self.reached[self.group(i)]]
        reaching.sort(key=lambda item: self.seconds[item.nodeid])
        turns, seen = [], collections.Counter()
        for item in reaching:
            turns.append(seen[item.originalname])
            seen[item.originalname] += 1
        order = sorted(range(len(reaching)), key=turns.__getitem__)
        chosen, seconds = [], 0
        for n in order:
            seconds += self.seconds[reaching[n].nodeid]
            if seconds > SECONDS:
                break
            chosen.append(reaching[n])
        return chosen

    @staticmethod
    def group(item):
        """A test, or all that share what one of them computes."""
        params = getattr(getattr(item, "callspec", None), "indices", {})
        return f"computed {params['computed']}" if "computed" in params else item.nodeid

    def reach(self):
        """Which lines each test runs, and for how long, found in a process of its own."""
        file = pathlib.Path(tempfile.mkdtemp(), "reached.json")
        pid = os.fork()
        if not pid:
            measured = coverage.Coverage(source=[str(PACKAGE)], data_file=None, config_file=False)
            seconds = {}
            measured.start()
            for item, following in itertools.zip_longest(self.items, self.items[1:]):
                measured.switch_context(self.group(item))
                start = time.time()
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                seconds[item.nodeid] = time.time() - start
            measured.stop()
            data, reached = measured.get_data(), collections.defaultdict(list)
            for path in data.measured_files():
                for line, contexts in data.contexts_by_lineno(path).items():
                    for context in contexts:
                        reached[context].append(f"{pathlib.Path(path).name}:{line}")
            file.write_text(json.dumps([reached, seconds, self.failed]))
            os._exit(0)
        os.waitpid(pid, 0)
        reached, self.seconds, failed = json.loads(file.read_text())
        if failed:
            pytest.exit("a test fails without any change", returncode=1)
        self.reached = collections.defaultdict(set, {k: set(v) for k, v in reached.items()})
        print(f"\n{len(self.items)} tests take {sum(self.seconds.values()):.0f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--number", type=int, default=400)
    parser.add_argument("--only", default="", help="mutants whose name holds this text")
    arguments, rest = parser.parse_known_args()
    tests = Tests(arguments.number, arguments.only)
    status = pytest.main(
        ["-q", "-p", "no:cacheprovider", "-p", "no:warnings", "-k", QUICK, *rest], plugins=[tests]
    )
    if status not in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise SystemExit(status)
    known = tomllib.loads((HERE / "mutants.toml").read_text())
    unknown = [name for name in tests.survivors if name not in known]
    caught = tests.total - len(tests.survivors)
    print(f"{caught} of {tests.total} mutants are caught; not listed: {len(unknown)}", *unknown)
    raise SystemExit(bool(unknown) or caught < LEAST * tests.total)


if __name__ == "__main__":
    main()

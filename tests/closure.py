"""A Python that sees no more than a list of requirements brings.

    import closure
    closure.only(['pansharp-nb[train]'])   # from here on, whatever else is installed cannot be imported

No environment is made: what is installed here is asked for its own requirements (`Requires-Dist`), down to the last,
and the rest is hidden from `import`, `importlib.util.find_spec` and `importlib.metadata`. Call it in a process of its
own, before what is to be tested is imported; a later call replaces an earlier one. Requirements on `pansharp-nb` itself
are read from `pyproject.toml`, so that what is tested is what is written there now.
"""
import re, sys, tomllib
from functools import cache
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from packaging.requirements import Requirement

def _name(s): return re.sub(r'[-_.]+', '-', s).lower()

def declared(extra:str='')->list: # requirements as `pyproject.toml` has them
    "What the project itself asks for, alone or for one extra more."
    p = tomllib.loads((Path(__file__).parents[1]/'pyproject.toml').read_text('utf-8'))['project']
    return p['dependencies'] + (p['optional-dependencies'][extra] if extra else [])

@cache
def _needs(name, extra): # requirements of a distribution for one extra ('' for none); `None` if it is not installed
    if name=='pansharp-nb': return declared(extra)
    try: return metadata.requires(name) or []
    except metadata.PackageNotFoundError: return None

def closure(requirements)->set: # names, normalised; those that are not installed are left out
    "All distributions that a list of requirements brings on this machine."
    todo,seen = [(Requirement(r), '') for r in requirements],set()
    while todo:
        r,asker = todo.pop()
        if r.marker and not r.marker.evaluate({'extra': asker}): continue
        for extra in ('', *r.extras):
            if (_name(r.name), extra) in seen: continue
            seen.add((_name(r.name), extra))
            todo += [(Requirement(s), extra) for s in _needs(_name(r.name), extra) or []]
    return {n for n,_ in seen if n=='pansharp-nb' or _needs(n, '') is not None}

def _tops(): # top-level module -> names of the distributions that hold it
    return {m: {_name(d) for d in ds} for m,ds in metadata.packages_distributions().items()}

def only(requirements)->set: # what may be imported, by distribution
    "From here on hide every installed distribution that the requirements do not bring."
    mine,tops = closure(requirements),_tops()
    hidden = {m for m,ds in tops.items() if not ds & mine and m not in sys.stdlib_module_names} - {'pansharp_nb'}
    class Only(PathFinder):
        hides = hidden
        @classmethod
        def find_spec(cls, name, path=None, target=None):
            return None if name.partition('.')[0] in hidden else PathFinder.find_spec(name, path, target)
        @classmethod
        def find_distributions(cls, *args, **kw):
            return (d for d in PathFinder.find_distributions(*args, **kw) if _name(d.name or '') in mine)
    sys.meta_path[:] = [Only if f is PathFinder or hasattr(f, 'hides') else f for f in sys.meta_path]
    for m in [m for m in sys.modules if m.partition('.')[0] in hidden]: del sys.modules[m]
    return mine

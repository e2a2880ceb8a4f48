"A process that can import what some requirements bring, and nothing else of what is installed beside them."
import sys
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name as plain

def closure(requirements)->set:
    "Names of the distributions that pip would install for these requirements, of those that are here."
    seen,todo = {},[Requirement(r) for r in requirements]
    while todo:
        r = todo.pop()
        had,extras = seen.get(plain(r.name)),{'', *r.extras}
        if had is not None and extras<=had: continue
        try: needs = distribution(r.name).requires or ()
        except PackageNotFoundError: needs = ()
        seen[plain(r.name)] = extras | (had or set())
        todo += [q for q in map(Requirement, needs) if not q.marker or any(q.marker.evaluate({'extra': e}) for e in extras)]
    return set(seen)

def only(requirements):
    "From here on modules and metadata of other distributions are not found."
    kept = closure(requirements)
    refused = {m for m,ds in packages_distributions().items() if not kept & {plain(d) for d in ds}}
    class Only(PathFinder):
        @classmethod
        def find_spec(cls, name, path=None, target=None): return None if name.partition('.')[0] in refused else PathFinder.find_spec(name, path, target)
        @classmethod
        def find_distributions(cls, *a, **kw): return (d for d in PathFinder.find_distributions(*a, **kw) if plain(d.name) in kept)
    sys.meta_path[:] = [f for f in sys.meta_path if f.__module__.startswith('_frozen_importlib') and f is not PathFinder] + [Only]
    sys.path_importer_cache.clear()

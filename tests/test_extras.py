"What pyproject and the sources promise of every machine: text is UTF-8, and each extra holds what its command needs."
import ast, json, os, re, subprocess, sys, tomllib
from pathlib import Path
import nbformat, pytest
import closure

root = Path(__file__).parents[1]
books = [p for p in sorted((root/'nbs').rglob('*.ipynb')) if '.ipynb_checkpoints' not in p.parts]
reports = [p for p in books if p.parent.name in ('tables', 'figures')]
plain = [*root.glob('tests/*.py'), *root.glob('benchmarks/*.py'), root/'nbs'/'conf.py']

def cells(p): # the code of a file, cell by cell
    if p.suffix=='.py': return [p.read_text('utf-8')]
    code = [c.source for c in nbformat.read(p, 4).cells if c.cell_type=='code']
    return [re.sub(r'(?m)^\s*[%!].*$', '', c) for c in code]

# ---- text is UTF-8

def opens(tree): # calls that open text and leave the alphabet to the machine
    for n in ast.walk(tree):
        if not isinstance(n, ast.Call) or 'encoding' in {k.arg for k in n.keywords}: continue
        f,args = n.func,[str(a.value) if isinstance(a, ast.Constant) else '' for a in n.args]
        mode = next((str(k.value.value) for k in n.keywords if k.arg=='mode' and isinstance(k.value, ast.Constant)), '')
        on = f.value.id if isinstance(f, ast.Attribute) and isinstance(f.value, ast.Name) else ''
        name = getattr(f, 'id', getattr(f, 'attr', ''))
        if name=='read_text' and not args or name=='write_text' and len(args)<2: yield n
        if name=='open' and isinstance(f, ast.Name) and 'b' not in (mode or ''.join(args[1:2])): yield n
        if name=='open' and on in ('Path', 'path', 'p', 'f', 'io') and 'b' not in (mode or ''.join(args[:1])): yield n
        if name in ('NamedTemporaryFile', 'TemporaryFile') and 'b' not in (mode or ''.join(args[:1]) or 'b'): yield n
        if name=='read' and on in ('cfg', 'config', 'ours') and len(args)<2: yield n

def test_every_open_of_text_says_utf8():
    "Ruff's rule sees what it can tell to be a path; this one the rest."
    calls = [(p, n) for p in (*plain, *books) for c in cells(p) for n in opens(ast.parse(c))]
    assert [f'{p.relative_to(root)}: {ast.unparse(n)[:80]}' for p,n in calls]==[]
    snake = (root/'nbs'/'Snakefile').read_text('utf-8').splitlines()
    assert [l for l in snake if re.search(r'read_text\(\)|write_text\([^,]*\)|\bopen\(', l)]==[]
    assert 'PLW1514' in tomllib.loads((root/'pyproject.toml').read_text('utf-8'))['tool']['ruff']['lint']['select']

def test_the_rule_sees_opens():
    bad = 'f.read_text()', "f.write_text('x')", "open('x')", "open('x', 'w')", 'p.open()', "cfg.read('x')"
    good = "f.read_text('utf-8')", "f.write_text(x, 'utf-8')", "open(x, 'rb')", "open(x, encoding='utf-8')"
    assert [bool(list(opens(ast.parse(s)))) for s in (*bad, *good)]==[True]*len(bad) + [False]*len(good)

# ---- what each extra holds

def imports(p): # the import statements of a notebook
    return [ast.unparse(n) for c in cells(p) for n in ast.parse(c).body if isinstance(n, (ast.Import, ast.ImportFrom))]

def modules(): # of the package
    files = [p.relative_to(root).with_suffix('') for p in sorted((root/'pansharp_nb').rglob('*.py'))]
    names = ['.'.join(p.parts).removesuffix('.__init__') for p in files if p.stem!='_modidx']
    return {m: [f'import {m}'] for m in names}

alone = """import closure, json, os, sys
def fails(extra, lines):
    closure.only(closure.declared(extra))
    bad = {}
    for where,words in lines.items():
        try: exec('\\n'.join(words), {})
        except Exception as e: bad[where] = f'{type(e).__name__}: {e}'
    return bad
job,to = json.load(sys.stdin),sys.argv[1]
for extra,lines in job.items(): # one holds more than the one before, or is a child's: an import cannot be undone
    aside = extra in ('prompt', 'pages')
    if aside and os.fork(): os.wait()
    else:
        with open(f'{to}/{extra}.json', 'w', encoding='utf-8') as f: json.dump(fails(extra, lines), f)
        if aside: os._exit(0)
"""

ascii_only = dict(LC_ALL='C', LANG='C', PYTHONUTF8='0', PYTHONCOERCECLOCALE='0')
alphabet = ['import locale', 'from pansharp_nb import weights', 'from pansharp_nb.papers import claims, reported',
    'assert "ascii" in (a := locale.getpreferredencoding(False).lower()) or "ansi" in a, a',
    'assert len(claims.claims())>100 and len(reported.reported())>1000 and len(weights.listing())>9']

@pytest.fixture(scope='module')
def held(tmp_path_factory):
    "Which imports fail with an extra alone; one process and its children for all extras."
    if not hasattr(os, 'fork'): pytest.skip('no fork on this system')
    mods = modules()
    texts = ['import tokenizers', 'from pansharp_nb.prompts import offline_embedder as e', 'assert e().dim==384']
    pages,tables = ({str(p.relative_to(root)): imports(p) for p in books if (p in reports)==r} for r in (False, True))
    needs = {'': mods, 'prompt': {'prompts': texts}, 'pages': pages,
        'train': {'train': ['import pansharp_nb.training, lightning, tensorboard']},
        'repro': mods | tables | {'all': ['import snakemake.cli'], 'texts': texts, 'alphabet': alphabet}}
    d,env = tmp_path_factory.mktemp('held'),os.environ | dict(PYTHONPATH=str(root)) | ascii_only
    how = dict(input=json.dumps(needs), cwd=root/'tests', env=env, capture_output=True, encoding='utf-8')
    p = subprocess.run([sys.executable, '-c', alone, d], **how)
    assert p.returncode==0, p.stderr[-3000:]
    return {e: json.loads((d/f'{e}.json').read_text('utf-8')) for e in needs}

def test_without_extras_all_but_training_imports(held):
    trains = {f'pansharp_nb.{m}' for m in ('training', 'papers.ablations', 'papers.boards', 'papers.claims')}
    assert set(held[''])<=trains and all("'lightning'" in why for why in held[''].values())

def test_another_alphabet_changes_nothing(held):
    "All this ran on a machine whose alphabet is ASCII; claims, numbers, settings and cards were read all the same."
    assert 'alphabet' not in held['repro']

@pytest.mark.parametrize('extra', ['train', 'prompt', 'repro', 'pages'])
def test_an_extra_holds_what_its_command_needs(held, extra): assert held[extra]=={}

def test_what_is_imported_is_asked_for():
    "A package that the code imports stands in pyproject itself, not only behind another."
    def named(*extras): return {closure._name(closure.Requirement(r).name) for e in extras for r in closure.declared(e)}
    base,every,tops = named(''),named('train', 'prompt', 'repro') | {'transformers'},closure._tops()
    for p in books:
        for tree in (ast.parse(c) for c in cells(p) if '#| export' in c):
            for n in ast.walk(tree):
                names = [a.name for a in n.names] if isinstance(n, ast.Import) else []
                if isinstance(n, ast.ImportFrom): names = [n.module]
                known = base if n in tree.body and p.name!='training.ipynb' else every
                for top in {m.partition('.')[0] for m in names} - sys.stdlib_module_names - {'pansharp_nb', 'triton', 'distributed'}: # what this machine need not have
                    assert tops[top] & known, f'{p.name} imports {top}'

def test_the_hook_hides_and_shows():
    "What is outside cannot be imported, found or asked for its version; what is inside can."
    code = """import closure, importlib.metadata as m, importlib.util as u
mine = closure.only(['pandas'])
import pandas
for what in ('torch', 'pytest', 'yaml'):
    assert u.find_spec(what) is None
    try: __import__(what)
    except ModuleNotFoundError as e: assert e.name==what
    else: raise SystemExit(what)
assert 'numpy' in mine and m.version('numpy') and 'torch' not in {d.name for d in m.distributions()}
closure.only(['pandas', 'pyyaml'])
import yaml"""
    p = subprocess.run([sys.executable, '-c', code], cwd=root/'tests', capture_output=True, encoding='utf-8')
    assert p.returncode==0, p.stderr[-2000:]

def test_extras_that_stand_on_each_other():
    base,train,repro,dev = (closure.closure([f'pansharp-nb{e}']) for e in ('', '[train]', '[repro]', '[dev]'))
    assert base < train < repro < dev and train==closure.closure(closure.declared('train')) | {'pansharp-nb'}
    assert not {'lightning', 'snakemake', 'tokenizers'} & base and {'lightning', 'snakemake', 'tokenizers'}<=repro
    assert 'colorama' not in base or os.name=='nt', 'markers count'

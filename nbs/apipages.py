"""The API reference: a page per module, made when the site is built, and links to it.

Nothing is written twice. What a parameter means is the comment beside it in the notebook,
what is raised is read from the `raise` statements, what a constant is from the comment at
its end, and every public name in a page's text or code leads to its entry."""
import ast, html, json, re, textwrap, tokenize, typing
from functools import cache
from io import StringIO
from pathlib import Path
from docutils import nodes

nbs = Path(__file__).parent
package = nbs.parent/'pansharp_nb'

# what a name means where its page has no comment beside it
house = dict(l.split(': ', 1) for l in """\
ms: low-resolution bands `(B, C, h, w)`
pan: panchromatic image `(B, 1, H, W)`, `H = r*h`
sensor: name of a sensor, or a `Sensor`
bands: number of bands `C`
ratio: PAN pixels per MS pixel, along one side
r: PAN pixels per MS pixel, along one side
seed: seed of the random numbers
device: `auto`, `cpu`, `cuda`, ...
dtype: floating-point type of the calculation
nf: feature channels
dim: feature channels
ni: input channels
no: output channels
ks: kernel size, odd
path: file or folder
folder: path of the folder
ds: a scene
scenes: folder of scenes, or list of them
net: a network
guard: bound the quotients of small numbers (see `quotient`)
scores: tidy frame of scores
holes: the textbook's filter with holes, where the toolbox has none
v1: the toolbox's first version of the method
ctx: what follows the name on the command line
reports: folder of the reports
paper: `PreMix`, `MFMIF-Net`, `DCFNet`, `SIDP` or `SUM-DUN`
""".splitlines())

@cache
def modules():
    "Every module of the package: its name without the package's, and the tree of its source."
    files = [f for f in sorted(package.rglob('*.py')) if f.name not in ('__init__.py', '_modidx.py')]
    def name(f): return '.'.join(f.relative_to(package).with_suffix('').parts)
    return {name(f): ast.parse(f.read_text('utf-8')) for f in files}

def _targets(s):
    if isinstance(s, (ast.ClassDef, ast.FunctionDef)): return [s.name]
    found = s.targets if isinstance(s, ast.Assign) else []
    if isinstance(s, ast.AnnAssign): found = [s.target]
    return [n.id for t in found for n in ast.walk(t) if isinstance(n, ast.Name)]

@cache
def public(module):
    "The names in a module's `__all__`, in the order of its page, with what makes them."
    body = modules()[module].body
    names = next((ast.literal_eval(s.value) for s in body if '__all__' in _targets(s)), [])
    return {n: s for s in body for n in _targets(s) if n in names}

def kind(s): return {ast.ClassDef: 'class', ast.FunctionDef: 'function'}.get(type(s), 'data')

def methods(s):
    "The public methods of a class."
    functions = [f for f in getattr(s, 'body', []) if isinstance(f, ast.FunctionDef)]
    return [f for f in functions if f.name[0]!='_'] if kind(s)=='class' else []

@cache
def comments(module):
    "Line number -> the comment that ends this line of a module's source."
    source = package.joinpath(*module.split('.')).with_suffix('.py').read_text('utf-8')
    found = tokenize.generate_tokens(StringIO(source).readline)
    return {t.start[0]: t.string.lstrip('# ') for t in found if t.type==tokenize.COMMENT}

def _help(a): # of a command's option
    said = (k.value for k in ast.walk(a) if isinstance(k, ast.keyword) and k.arg=='help')
    return next((v.value for v in said if isinstance(v, ast.Constant)), '')

def _init(s):
    if not isinstance(s, ast.ClassDef): return s
    return next((f for f in s.body if getattr(f, 'name', '')=='__init__'), None)

def _fields(module, s): # of a dataclass or a named tuple
    if not s.decorator_list and [*map(ast.unparse, s.bases)]!=['NamedTuple']: return {}
    found = [f for f in s.body if isinstance(f, ast.AnnAssign)]
    return {f.target.id: comments(module).get(f.end_lineno, '') for f in found}

def described(module, s):
    "What is said of each parameter of a function or class, of its result, of all together."
    said,f = comments(module),_init(s)
    if f is None: return _fields(module, s), '', ''
    a,first = f.args,f.body[0].lineno
    every = [*a.posonlyargs, *a.args, *filter(None, [a.vararg]), *a.kwonlyargs]
    every = [p for p in every+[*filter(None, [a.kwarg])] if p.arg not in ('self', 'cls')]
    ends = dict(zip([p.arg for p in a.args][::-1], a.defaults[::-1]))
    ends |= {p.arg: d for p,d in zip(a.kwonlyargs, a.kw_defaults) if d}
    line = {p.arg: ends.get(p.arg, p).end_lineno for p in every}
    last = first if first==f.lineno else first-1 # of the signature
    head = said.get(f.lineno, '') if last==f.lineno else '' # `def f(x, y): # of all`
    own = {n: '' if head and l==f.lineno else said.get(l, '') for n,l in line.items()}
    out = said.get(last, '') if last>max([f.lineno, *line.values()]) else ''
    return {p.arg: _help(p) or own[p.arg] or house.get(p.arg, '') for p in every}, out, head

def _starred(s): # parameter -> the stars before its name
    a = getattr(_init(s), 'args', None)
    found = ((a and a.vararg, r'\*'), (a and a.kwarg, r'\*\*'))
    return {p.arg: stars for p,stars in found if p}

def raised(s):
    "Exceptions that a function itself raises, with their messages; `‹x›` stands for a value."
    def value(p):
        said = ast.unparse(getattr(p, 'value', p))
        return f'‹{said}›' if re.fullmatch(r'[\w.]+', said) else '…'
    def text(a):
        parts = getattr(a, 'values', [a])
        return ''.join(str(p.value) if isinstance(p, ast.Constant) else value(p) for p in parts)
    calls = [r.exc for r in ast.walk(s) if isinstance(r, ast.Raise)]
    calls = [c for c in calls if isinstance(c, ast.Call)]
    return [(ast.unparse(c.func), text(c.args[0]) if c.args else '') for c in calls]

def rst(text):
    "Inline Markdown as reStructuredText."
    def part(p):
        if p[:1]=='`' and len(p)>2: return rf'\ ``{p[1:-1].strip()}``\ '
        if p[:1]=='$' and len(p)>2: return rf'\ :math:`{p[1:-1]}`\ '
        return re.sub(r'([*|_\\`])', r'\\\1', p)
    return ''.join(map(part, re.split(r'(`[^`]+`|\$[^$\n]+\$)', text)))

def statement(name):
    "The module and the statement behind a full name; a method's is inside its class."
    module,_,last = name.removeprefix('pansharp_nb.').rpartition('.')
    if module in modules(): return module, public(module).get(last)
    module,_,cls = module.rpartition('.')
    of = public(module).get(cls) if module in modules() else None
    return module, next((f for f in methods(of) if f.name==last), None)

def docstring(app, what, name, obj, options, lines):
    "A docstring, and field lists made from the comments."
    if not name.startswith('pansharp_nb'): return
    if what=='module':
        lines[:] = [*map(rst, lines), '']
        return
    module,s = statement(name)
    if s is None: return
    if kind(s)=='data':
        lines[:] = [rst(comments(module).get(s.end_lineno, '')), '']
        return
    parameters,out,head = described(module, s)
    stars,text = _starred(s),textwrap.dedent('\n'.join(lines)).splitlines()
    lines[:] = [*map(rst, text), '', rst(head), '']
    lines += [f':param {stars.get(p, "")}{p}: {rst(t)}' for p,t in parameters.items() if t]
    lines += [f':returns: {rst(out)}']*bool(out)
    lines += [f':raises {e}: {rst(m)}' for e,m in raised(s)] + ['']

def plain(app, obj, bound):
    "The types of a command's options without what typer is told of them: it prints as an address."
    if typing.Annotated in map(typing.get_origin, getattr(obj, '__annotations__', {}).values()):
        obj.__annotations__ = {p: getattr(t, '__origin__', t) if hasattr(t, '__metadata__') else t for p,t in obj.__annotations__.items()}

def cells(f):
    "Kind and text of each cell of a notebook."
    return [(c['cell_type'], ''.join(c['source'])) for c in json.loads(f.read_text('utf-8'))['cells']]

@cache
def pages():
    "Of each module: its notebook, its title, and the heading over each public name."
    found = {}
    for f in sorted(nbs.rglob('*.ipynb')):
        if '.ipynb_checkpoints' in f.parts: continue
        its,over,at = cells(f),'',{}
        module = re.search(r'^#\| *default_exp (\S+)', '\n'.join(s for _,s in its), re.M)
        title = next(s for k,s in its if k=='markdown').splitlines()[0].lstrip('# ')
        for k,s in its:
            if k=='markdown': over = ([over]+re.findall(r'^#+ +(.+)$', s, re.M))[-1]
            else: at |= {n: over for n in re.findall(r'^(?:(?:class|def) +)?(\w+)', s, re.M)}
        page = f.relative_to(nbs).with_suffix('').as_posix()
        if module: found[module[1]] = page,title,at
    return found

def source(domain, info):
    "Where on the pages a name is defined: under which heading."
    module = info['module'].removeprefix('pansharp_nb.')
    if domain!='py' or module not in pages(): return
    page,_,at = pages()[module]
    heading = at.get(info['fullname'].split('.')[0], '')
    anchor = nodes.make_id(re.sub(r'[`$]', '', heading))
    return f'../{page}.html' + (f'#{anchor}' if anchor else '')

def _entry(module, name, s):
    full = f'pansharp_nb.{module}.{name}'
    if kind(s)=='data': return f'.. autodata:: {full}\n   :no-value:\n'
    own = ', '.join(f.name for f in methods(s))
    return f'.. auto{kind(s)}:: {full}\n' + f'   :members: {own}\n   :undoc-members:\n'*bool(own)

def _page(module):
    full,names,(page,title,_) = f'pansharp_nb.{module}',public(module).items(),pages()[module]
    kinds = 'function', 'class', 'data'
    entries = [_entry(module, n, s) for k in kinds for n,s in names if kind(s)==k]
    head = f'{full}\n{"="*len(full)}\n\n.. automodule:: {full}\n\n'
    return head + f'From the page :doc:`{rst(title)} </{page}>`.\n\n' + '\n'.join(entries)

_index = """:orphan:

API reference
=============

What the package gives, module by module. The text comes from the notebooks: follow *source*
to the page where a name is made, used and tested.

.. toctree::
   :maxdepth: 1

"""

def generate(app):
    "Write a page per module, where it has changed, and the list of them."
    known = [m for m in modules() if m in pages() and public(m)]
    texts = {m: _page(m) for m in known}
    texts['index'] = _index + ''.join(f'   {m} <{m}>\n' for m in known)
    home = Path(app.srcdir)/'api'
    home.mkdir(exist_ok=True)
    for name,text in texts.items():
        f = home/f'{name}.rst'
        if not f.exists() or f.read_text('utf-8')!=text: f.write_text(text, 'utf-8')
    for f in home.glob('*.rst'):
        if f.stem not in texts: f.unlink()

@cache
def everywhere():
    "Names that one module alone makes public and that no sentence uses by accident."
    of = {}
    for m in modules():
        for n in public(m): of.setdefault(n, []).append(f'{m}.{n}')
    telling = re.compile('_|[A-Z].*[a-z]|[a-z].*[A-Z]')
    return {n: at[0] for n,at in of.items() if len(at)==1 and telling.search(n)}

def _imported(text): # by a page's code: name -> full name
    names,text = {},re.sub(r'\\\n|\(\n', ' ', text)
    for m,what in re.findall(r'^ *from pansharp_nb\.?([\w.]*) import (.+)', text, re.M):
        for n in re.findall(r'[\w*]+(?: as \w+)?', what.partition('#')[0]):
            (n,_,to),here = n.partition(' as '),public(m) if m in modules() else {}
            whole = f'{m}.{n}'.lstrip('.')
            if n=='*': names |= {k: f'{m}.{k}' for k in here}
            elif n in here: names[to or n] = whole
            elif whole in modules(): names |= {f'{to or n}.{k}': f'{whole}.{k}' for k in public(whole)}
    return names

@cache
def known(docname):
    "Names on a page: what it imports, what its module makes public, what is unmistakable."
    f = nbs/f'{docname}.ipynb'
    code = '\n'.join(s for k,s in cells(f) if k=='code') if f.exists() else ''
    own = next((m for m,(page,*_) in pages().items() if docname in (page, f'api/{m}')), None)
    return everywhere() | _imported(code) | {n: f'{own}.{n}' for n in (public(own) if own else ())}

@cache
def doors():
    "What `import pansharp_nb as ps` gives."
    tree = ast.parse((package/'__init__.py').read_text('utf-8'))
    given = next(s.value for s in tree.body if '_doors' in _targets(s))
    return {k.arg: k.value.value.replace(':', '.') for k in given.keywords}

def resolve(name, docname):
    "The full name in the package, or nothing."
    name = name.removeprefix('pansharp_nb.')
    if name.startswith('ps.'): name = doors().get(name[3:], name)
    if name in known(docname): return known(docname)[name]
    module,_,last = name.rpartition('.')
    ends = [m for m in modules() if m==module or module and m.endswith(f'.{module}')]
    ends = [m for m in ends if last in public(m)]
    return f'{ends[0]}.{last}' if len(ends)==1 else None

def uri(app, docname, name):
    "From a page to an entry."
    page = app.builder.get_relative_uri(docname, f'api/{name.rpartition(".")[0]}')
    return f'{page}#pansharp_nb.{name}'

def link_words(app, doctree, docname):
    "Each public name in inline code leads to its entry."
    for n in list(doctree.findall(nodes.literal)):
        word = re.match(r'[A-Za-z_][\w.]*', n.astext())
        if not word or isinstance(n.parent, (nodes.reference, nodes.title)): continue
        if name := resolve(word[0].rstrip('.'), docname):
            kw = dict(refuri=uri(app, docname, name), internal=True, classes=['api'])
            n.replace_self(nodes.reference('', '', n.deepcopy(), **kw))

# a name in highlighted code, perhaps with a module before it; no attribute, no keyword
_name = re.compile(r'(?<!<span class="o">\.</span>)<span class="(?:n|nn|nf|nc)">([\w.]+)</span>'
    r'(?:<span class="o">\.</span><span class="n">(\w+)</span>)?(?!<span class="o">=</span>)')

def link_code(app, pagename, templatename, context, doctree):
    "Each public name in a code cell leads to its entry."
    if 'body' not in context or doctree is None: return
    def linked(m):
        both = resolve(f'{m[1]}.{m[2]}', pagename) if m[2] else None
        name = both or resolve(m[1], pagename)
        if not name: return m[0]
        inside = m[0] if both else m[0][:m[0].index('</span>')+len('</span>')]
        rest = m[0][len(inside):]
        return f'<a class="api" href="{html.escape(uri(app, pagename, name))}">{inside}</a>{rest}'
    def block(m): return _name.sub(linked, m[0])
    context['body'] = re.sub(r'<pre>.*?</pre>', block, context['body'], flags=re.S)
    style = 'a.api, a.api code {color: inherit; text-decoration: underline dotted #999}'
    context['metatags'] += f'<style>{style}</style>'

def setup(app):
    for e in ('sphinx.ext.autodoc', 'sphinx.ext.linkcode'): app.setup_extension(e)
    app.config.linkcode_resolve,app.config.autodoc_typehints_format = source,'short'
    app.config.autodoc_inherit_docstrings = app.config.add_module_names = False
    app.connect('builder-inited', generate)
    app.connect('autodoc-before-process-signature', plain)
    app.connect('autodoc-process-docstring', docstring)
    app.connect('doctree-resolved', link_words)
    app.connect('html-page-context', link_code)
    return dict(parallel_read_safe=True, parallel_write_safe=True, version='1')

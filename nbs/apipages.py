"""The API reference: a page per module, written when the site is built, and links to it from every name.

Nothing is written twice: what a parameter means is the comment beside it in the notebook, what is raised is
read from the `raise` statements, what a constant is from the comment at its end. A Sphinx extension."""
import ast, html, json, re, textwrap, tokenize
from functools import cache
from io import StringIO
from pathlib import Path
from docutils import nodes

nbs = Path(__file__).parent
package = nbs.parent/'pansharp_nb'

# names that mean the same on every page, so no page explains them again
house = dict(
    ms='low-resolution bands `(B, C, h, w)`', pan='panchromatic image `(B, 1, H, W)`, `H = r*h`',
    sensor='name of a sensor, or a `Sensor`', bands='number of bands `C`', ratio='PAN pixels per MS pixel, along one side',
    r='PAN pixels per MS pixel, along one side', seed='seed of the random numbers', device='`auto`, `cpu`, `cuda`, ...',
    dtype='floating-point type of the calculation', nf='feature channels', ni='input channels', no='output channels',
    ks='kernel size, odd', dim='feature channels', path='file or folder', folder='folder', ds='a scene', scenes='scenes',
    net='a network', guard='keep quotients of small numbers finite (see `quotient`)', scores='tidy frame of scores',
    paper='short name of a paper: `premix`, `mfmif`, `dcfnet`, `sidp`, `sumdun`', args='', kwargs='')

@cache
def modules():
    "Every module of the package: its name without the package's, and the tree of its source."
    files = sorted(package.rglob('*.py'))
    return {'.'.join(f.relative_to(package).with_suffix('').parts): ast.parse(f.read_text('utf-8'))
        for f in files if f.name not in ('__init__.py', '_modidx.py')}

@cache
def public(module):
    "The names in a module's `__all__`, in the order of its page, and the statement that makes each."
    tree,made = modules()[module],{}
    names = next((ast.literal_eval(s.value) for s in tree.body if isinstance(s, ast.Assign) and '__all__' in map(ast.unparse, s.targets)), [])
    for s in tree.body:
        targets = s.targets if isinstance(s, ast.Assign) else [s.target] if isinstance(s, ast.AnnAssign) else []
        found = [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)] or [getattr(s, 'name', None)]
        made |= {n: s for n in found if n in names}
    return made

def kind(s): return {ast.ClassDef: 'class', ast.FunctionDef: 'function'}.get(type(s), 'data')

def methods(s):
    "The public methods of a class."
    return [f for f in s.body if isinstance(f, ast.FunctionDef) and not f.name.startswith('_')] if kind(s)=='class' else []

@cache
def comments(module):
    "The comment that ends each line of a module's source."
    text = package.joinpath(*module.split('.')).with_suffix('.py').read_text('utf-8')
    found = (t for t in tokenize.generate_tokens(StringIO(text).readline) if t.type==tokenize.COMMENT)
    return {t.start[0]: t.string.lstrip('# ') for t in found}

def help_of(a):
    "The help of a command's option."
    calls = [c for c in ast.walk(a) if isinstance(c, ast.keyword) and c.arg=='help' and isinstance(c.value, ast.Constant)]
    return calls[0].value.value if calls else ''

def described(module, s):
    "What is said of each parameter of a function or class, of its result, and of all of them together."
    said,init = comments(module),s
    if isinstance(s, ast.ClassDef):
        init = next((f for f in s.body if isinstance(f, ast.FunctionDef) and f.name=='__init__'), None)
        if init is None: # a dataclass has fields
            if not (s.decorator_list or s.bases and ast.unparse(s.bases[0])=='NamedTuple'): return {}, '', ''
            fields = [f for f in s.body if isinstance(f, ast.AnnAssign)]
            return {f.target.id: said.get(f.end_lineno, '') for f in fields}, '', ''
    a = init.args
    every = [*a.posonlyargs, *a.args, *filter(None, [a.vararg]), *a.kwonlyargs, *filter(None, [a.kwarg])]
    every = [p for p in every if p.arg not in ('self', 'cls')]
    last = init.body[0].lineno if init.body[0].lineno==init.lineno else init.body[0].lineno-1
    head = said.get(init.lineno, '') if last==init.lineno else '' # `def f(x, y): # of all`
    defaults = dict(zip([p.arg for p in a.args][::-1], a.defaults[::-1])) | dict(zip((p.arg for p in a.kwonlyargs), a.kw_defaults))
    def of(p):
        ends = defaults.get(p.arg)
        line = ends.end_lineno if ends is not None else p.end_lineno
        return help_of(p) or (said.get(line, '') if line>init.lineno or not head else '') or house.get(p.arg, '')
    out = said.get(last, '') if not head and init.returns and last>max([init.lineno, *(p.end_lineno for p in every)]) else ''
    return {p.arg: of(p) for p in every}, out, head

def stars(s):
    a = next((f for f in s.body if getattr(f, 'name', '')=='__init__'), s) if isinstance(s, ast.ClassDef) else s
    a = getattr(a, 'args', None)
    return {getattr(p, 'arg', None): n*'*' for n,p in ((1, a and a.vararg), (2, a and a.kwarg))}

def raised(s):
    "Exceptions that the function itself raises, with their messages; what is put in stands in angle brackets."
    def text(a):
        return ''.join(str(p.value) if isinstance(p, ast.Constant) else put(p) for p in getattr(a, 'values', [a]))
    def put(p):
        said = ast.unparse(getattr(p, 'value', p))
        return f'‹{said}›' if re.fullmatch(r'[\w.]+', said) else '…'
    calls = [r.exc for r in ast.walk(s) if isinstance(r, ast.Raise) and isinstance(r.exc, ast.Call)]
    return [(ast.unparse(c.func), text(c.args[0]) if c.args else '') for c in calls]

def rst(text):
    "Inline Markdown as reStructuredText."
    def part(p):
        if p[:1]=='`' and len(p)>2: return rf'\ ``{p[1:-1].strip()}``\ '
        if p[:1]=='$' and len(p)>2: return rf'\ :math:`{p[1:-1]}`\ '
        return re.sub(r'([*|_\\`])', r'\\\1', p)
    return ''.join(part(p) for p in re.split(r'(`[^`]+`|\$[^$\n]+\$)', text))

def statement(name):
    "The module and the statement behind a full name; a method's is inside its class."
    module,_,rest = name.removeprefix('pansharp_nb.').rpartition('.')
    if module in modules(): return module, public(module).get(rest)
    module,_,cls = module.rpartition('.')
    if module not in modules() or cls not in public(module): return module, None
    return module, next((f for f in methods(public(module)[cls]) if f.name==rest), None)

def fields(app, what, name, obj, options, lines):
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
    par,out,head = described(module, s)
    lines[:] = [*map(rst, textwrap.dedent('\n'.join(lines)).splitlines()), '', rst(head), '']
    stars_of = stars(s)
    lines += [f':param {stars_of.get(p, "").replace("*", chr(92)+"*")}{p}: {rst(t)}' for p,t in par.items() if t]
    lines += [f':returns: {rst(out)}']*bool(out) + [f':raises {e}: {rst(m)}' for e,m in raised(s)] + ['']

@cache
def pages():
    "Of each module: the notebook it comes from, its title, and the heading over each public name."
    found = {}
    for f in nbs.rglob('*.ipynb'):
        if '.ipynb_checkpoints' in f.parts: continue
        cells = [(c['cell_type'], ''.join(c['source'])) for c in json.loads(f.read_text('utf-8'))['cells']]
        module = next((m[1] for _,s in cells if (m := re.search(r'^#\| *default_exp (\S+)', s, re.M))), None)
        title,over,at = next(s for k,s in cells if k=='markdown').splitlines()[0].lstrip('# '),'',{}
        for k,s in cells:
            if k=='markdown': over = ([over]+re.findall(r'^#+ +(.+)$', s, re.M))[-1]
            else: at |= {n: over for n in re.findall(r'^(?:class|def) +(\w+)|^(\w+) *=', s, re.M) for n in n if n}
        if module: found[module] = (f.relative_to(nbs).with_suffix('').as_posix(), title, at)
    return found

def source(domain, info):
    "Where on the pages a name is defined: under which heading."
    module = info['module'].removeprefix('pansharp_nb.')
    if domain!='py' or module not in pages(): return
    page,_,at = pages()[module]
    anchor = nodes.make_id(re.sub(r'[`$]', '', at.get(info['fullname'].split('.')[0], '')))
    return f'../{page}.html' + (f'#{anchor}' if anchor else '')

def generate(app):
    "Write a page per module, where it has changed, and the list of them."
    home = Path(app.srcdir)/'api'
    home.mkdir(exist_ok=True)
    def put(name, text):
        f = home/f'{name}.rst'
        if not f.exists() or f.read_text('utf-8')!=text: f.write_text(text, 'utf-8')
        return f
    def entry(module, n, s):
        full = f'pansharp_nb.{module}.{n}'
        if kind(s)=='data': return f'.. autodata:: {full}\n   :no-value:\n'
        own = [f.name for f in methods(s)]
        return f'.. auto{kind(s)}:: {full}\n' + (f'   :members: {", ".join(own)}\n   :undoc-members:\n' if own else '')
    def page(module):
        names = public(module).items()
        nb,title,_ = pages()[module]
        body = '\n'.join(entry(module, n, s) for k in ('function', 'class', 'data') for n,s in names if kind(s)==k)
        at = f'pansharp_nb.{module}'
        return f'{at}\n{"="*len(at)}\n\n.. automodule:: {at}\n\nFrom the page :doc:`{rst(title)} </{nb}>`.\n\n{body}'
    known = [m for m in modules() if m in pages() and public(m)]
    kept = {put(m, page(m)) for m in known}
    intro = 'What the package gives, module by module. The text comes from the pages themselves, where each name is used and tested.'
    top = ':orphan:\n\nAPI reference\n=============\n\n' + intro + '\n\n.. toctree::\n   :maxdepth: 1\n\n'
    kept.add(put('index', top + ''.join(f'   {m.removeprefix("pansharp_nb.")} <{m}>\n' for m in known)))
    for f in set(home.glob('*.rst'))-kept: f.unlink()

@cache
def everywhere():
    "Names that one module alone makes public, and that no sentence uses by accident."
    seen = {}
    for m in modules():
        for n in public(m): seen.setdefault(n, []).append(m)
    return {n: f'{m[0]}.{n}' for n,m in seen.items() if len(m)==1 and re.search('_|[A-Z].*[a-z]|[a-z].*[A-Z]', n)}

@cache
def known(docname):
    "What each name means on a page: what it imports, what its own module makes public, what only one module has."
    names = dict(everywhere())
    f = nbs/f'{docname}.ipynb'
    code = [''.join(c['source']) for c in json.loads(f.read_text('utf-8'))['cells'] if c['cell_type']=='code'] if f.exists() else []
    text = re.sub(r'\\\n|\(\n', ' ', '\n'.join(code))
    for m,what in re.findall(r'^ *from pansharp_nb\.?([\w.]*) import (.+)', text, re.M):
        for n in re.findall(r'[\w*]+(?: as \w+)?', what.partition('#')[0]):
            n,_,to = n.partition(' as ')
            if n=='*': names |= {k: f'{m}.{k}' for k in (public(m) if m in modules() else ())}
            elif m in modules() and n in public(m): names[to or n] = f'{m}.{n}'
            elif (p := f'{m}.{n}'.lstrip('.')) in modules(): names |= {f'{to or n}.{k}': f'{p}.{k}' for k in public(p)}
    own = next((m for m,(p,*_) in pages().items() if docname in (p, f'api/{m}')), None)
    return names | ({n: f'{own}.{n}' for n in public(own)} if own else {})

def resolve(name, docname):
    "The full name in the package, or nothing."
    name = name.removeprefix('pansharp_nb.')
    if name.startswith('ps.'): name = doors().get(name[3:], name)
    if name in known(docname): return known(docname)[name]
    m,_,n = name.rpartition('.')
    if m in modules() and n in public(m): return name
    ends = [k for k in modules() if k.endswith(f'.{m}') and n in public(k)] if m else []
    return f'{ends[0]}.{n}' if len(ends)==1 else None

@cache
def doors():
    "What `import pansharp_nb as ps` gives."
    tree = ast.parse((package/'__init__.py').read_text('utf-8'))
    s = next(s for s in tree.body if isinstance(s, ast.Assign) and '_doors' in map(ast.unparse, s.targets))
    return {k.arg: k.value.value.replace(':', '.') for k in s.value.keywords}

def uri(app, docname, name):
    module = name.rpartition('.')[0]
    return f'{app.builder.get_relative_uri(docname, f"api/{module}")}#pansharp_nb.{name}'

def link_words(app, doctree, docname):
    "Each public name in inline code leads to its entry."
    for n in list(doctree.findall(nodes.literal)):
        if isinstance(n.parent, (nodes.reference, nodes.title)) or n.next_node(nodes.reference): continue
        name = resolve(re.split(r'[(\[ =]', n.astext())[0], docname) if re.match(r'[A-Za-z_]', n.astext()) else None
        if name and not docname.endswith(f'/{name}'):
            n.replace_self(nodes.reference('', '', n.deepcopy(), refuri=uri(app, docname, name), internal=True, classes=['api']))

spans = re.compile(r'(?<!<span class="o">\.</span>)(?:<span class="(?:n|nn|nf|nc)">([\w.]+)</span>)'
    r'((?:<span class="o">\.</span><span class="n">\w+</span>)?)(?!<span class="o">=</span>|\s*<span class="p">:</span>)')

def link_code(app, pagename, templatename, context, doctree):
    "The same in code cells."
    if 'body' not in context or doctree is None: return
    def linked(m):
        first,rest = m[1],re.sub('<.*?>', '', html.unescape(m[2]))
        for n,inside in ((first+rest, m[0]), (first, m[0][:len(m[0])-len(m[2])])):
            if name := resolve(n, pagename):
                return f'<a class="api" href="{uri(app, pagename, name)}">{inside}</a>' + m[0][len(inside):]
        return m[0]
    def block(m): return spans.sub(linked, m[0])
    context['metatags'] += '<style>a.api, a.api code {color: inherit; text-decoration: underline dotted #999}</style>'
    context['body'] = re.sub(r'<pre>.*?</pre>', block, context['body'], flags=re.S)

def setup(app):
    for e in ('sphinx.ext.autodoc', 'sphinx.ext.linkcode'): app.setup_extension(e)
    app.config.linkcode_resolve,app.config.autodoc_typehints_format = source,'short'
    app.config.autodoc_inherit_docstrings = app.config.add_module_names = False
    app.connect('builder-inited', generate)
    app.connect('autodoc-process-docstring', fields)
    app.connect('doctree-resolved', link_words)
    app.connect('html-page-context', link_code)
    return dict(parallel_read_safe=True, parallel_write_safe=True, version='1')

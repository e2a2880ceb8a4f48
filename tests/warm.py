"""A papermill that is warm: what reports import is imported once, each call is a fork of that process, in which papermill's own
command line runs the cells. `python warm.py SOCKET ARGUMENTS` asks, `python warm.py SOCKET` alone answers."""
import json, os, socket, sys
from contextlib import suppress

def ask(at, argv): # our streams go with the words, so what is said is said here
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(at)
        socket.send_fds(s, [json.dumps([os.getcwd(), argv]).encode()], [0, 1, 2])
        return int(s.recv(4) or 70) # nothing: the process there died

def answer(c):
    words,fds,*_ = socket.recv_fds(c, 1<<16, 3)
    for i,f in enumerate(fds): os.dup2(f, i)
    where,argv = json.loads(words)
    os.chdir(where)
    from papermill.cli import papermill
    code = 1
    try: papermill.main(['--engine', 'here', *argv])
    except SystemExit as e: code = e.code if isinstance(e.code, int) else 1
    except BaseException: sys.excepthook(*sys.exc_info())
    sys.stdout.flush(), sys.stderr.flush()
    c.send(str(code or 0).encode())

def here(): # papermill's engine that runs cells in this process
    from base64 import b64encode
    from IPython.core.displayhook import DisplayHook
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output
    from nbformat.v4 import new_output
    from papermill.engines import Engine, papermill_engines
    def text(v): return b64encode(v).decode() if isinstance(v, bytes) else v
    def outputs(got, e, shell):
        out = [new_output('stream', name=n, text=t) for n,t in (('stdout', got.stdout), ('stderr', got.stderr)) if t]
        out += [new_output('display_data', {k: text(v) for k,v in o.data.items()}, metadata=o.metadata or {}) for o in got.outputs]
        said = shell.InteractiveTB.structured_traceback(type(e), e, e.__traceback__) if e else []
        return out + ([new_output('error', ename=type(e).__name__, evalue=str(e), traceback=said)] if e else [])

    class Last(DisplayHook): # a cell's value is shown as what it displays is
        def write_output_prompt(self): pass
        def write_format_data(self, data, md=None): self.shell.display_pub.publish(data, md)

    class Shell(InteractiveShell):
        displayhook_class = Last
        def enable_gui(self, gui=None): pass
        def showtraceback(self, *_, **__): pass # it is an output

    class Here(Engine):
        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, **kw):
            shell = Shell.instance()
            shell.enable_matplotlib('inline')
            shell.display_formatter.active = True
            for i,cell in enumerate(nb_man.nb.cells):
                nb_man.cell_start(cell, i)
                with capture_output() as got: done = shell.run_cell(cell.source, store_history=True) if cell.cell_type=='code' else None
                e = done and (done.error_before_exec or done.error_in_exec)
                if done: cell.outputs,cell.execution_count = outputs(got, e, shell),shell.execution_count-1
                if e: nb_man.cell_exception(cell, i)
                nb_man.cell_complete(cell, i)
                if e: break
    papermill_engines.register('here', Here)

def serve(at):
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(at)
        s.listen(64) # who asks now waits for the imports
        import pandas.io.formats.style, papermill.cli # noqa: F401
        from pansharp_nb import training # noqa: F401
        from pansharp_nb.papers import ablations, claims, comparison # noqa: F401
        here()
        s.settimeout(1)
        parent = os.getppid()
        while os.getppid()==parent: # nobody is left behind
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]: pass
            try: c,_ = s.accept()
            except TimeoutError: continue
            if not os.fork():
                s.close()
                answer(c)
                os._exit(0)
            c.close()

if __name__=='__main__':
    at,*argv = sys.argv[1:]
    sys.exit(ask(at, argv) if argv else serve(at))

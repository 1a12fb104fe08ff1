"""What a worker does before it labels its first photo."""

import subprocess
import sys
import textwrap


def test_every_blas_is_loaded_before_threads_are_bounded():
    """One that is loaded later takes all cores, and waits for them: 0.3 s a photo of MaskCut where they are busy."""
    script = """
        import u2seg.pseudo.labelling
        from threadpoolctl import threadpool_info
        from u2seg.runtime import bounded_threads

        with bounded_threads(1):
            import u2seg.pseudo.masks.maskcut, u2seg.pseudo.masks.regiontree, u2seg.pseudo.masks.ncut
            import u2seg.pseudo.refine.densecrf, u2seg.pseudo.refine.lattice, u2seg.pseudo.stuff
            print({pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"})
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "{1}\n"

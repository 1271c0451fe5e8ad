"""Invoke collections: parse, call, print. The only importers of invoke.

`from pipeline.tasks import namespace` in a repository's tasks.py gives it every command.
"""

from __future__ import annotations

import gc

from invoke.collection import Collection

from pipeline.tasks import clean, databases, doctor, hooks, images, init, itest, pins, registry, releases

namespace = Collection(
    images.build,
    images.push,
    images.plan,
    doctor.doctor,
    init.init,
    clean.clean,
    itest.itest,
    itest.start_oracle,
    itest.run_tests,
    itest.stop_oracle,
)
namespace.add_collection(Collection("pins", pins.pins_update))
namespace.add_collection(
    Collection(
        "release",
        releases.release_list,
        releases.release_show,
        releases.release_promote,
        releases.release_pull,
        releases.release_users,
    )
)
namespace.add_collection(hooks.WithHidden("hooks", hooks.hooks_install))
namespace.add_collection(Collection("db", databases.db_bake, databases.db_verify, databases.db_shell, databases.db_logs))
namespace.add_collection(Collection("registry", registry.registry_start, registry.registry_stop))

# A command is over in moments: what is imported by now need not be searched for garbage, above all not at its end (35 ms), and
# what it reads (an entry for every file) is kept anyway: fewer searches for cycles that are not there.
gc.freeze()
gc.set_threshold(50_000)

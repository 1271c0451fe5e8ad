"""The image hierarchy: plan → build → publish.

What there is:    definition (one YAML), hierarchy (all of them in build order), graph (as a picture)
What goes in:     dockerfile and sources (what a Dockerfile takes), ignore, context and hashes (the files), bases and pins (where it
                  begins), fingerprint (all of it as one value)
Plan:             plan (what happens to each image, and why), explain (beside a release)
Build:            schedule (which one next), build (carry it out), progress (tell of it)
Publish:          publish (in an order that holds), release (what a revision consists of)
"""

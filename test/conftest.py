from hypothesis import settings

# No deadline: how long an example takes depends on the machine's load, and the first one imports half of the compiler.
# On top of hypothesis' own profile, which under CI tries the same examples in every run.
settings.register_profile("qvit", deadline=None)
settings.load_profile("qvit")

"""How a run is launched and watched: profiles, values, conductor, backends. Never imports a step."""

"""One GPU and many robots: what it holds, and how long their replanning calls take, computed."""

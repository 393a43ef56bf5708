from fastsvs.cli import main

raise SystemExit(main())

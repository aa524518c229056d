import sys

from actors.doctor.examine import main

sys.exit(main())

"""What all tests share."""

import torch

torch.set_num_threads(1)  # tests are small: threads would cost more than they save

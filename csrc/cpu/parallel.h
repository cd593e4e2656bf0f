// The primitives over the threads. Work is divided by shape alone, never by the number of threads, so that
// sums have one order and results the same bits whatever the threads.
#pragma once

#include <vector>

#include "problem_of.h"

namespace stn::cpu {

void run_sample(const Problem& p);
// Theta's gradient (maps, streams, basis).
std::vector<double> run_grad_theta(const Problem& p);
// The input's gradient and, where it is wanted, theta's; empty otherwise.
std::vector<double> run_backward(const Problem& p, const std::vector<Readers>& readers, bool theta);

}  // namespace stn::cpu

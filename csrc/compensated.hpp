// Sums that do not lose small terms: each addition's rounding error is kept and added at the end.
#pragma once

#include <cmath>

namespace ensemw2s {

// An unevaluated sum of two numbers. Adding n numbers has an error of about one rounding of the result, not n.
struct CompensatedSum {
    double high = 0.0;
    double low = 0.0;

    // Knuth's error-free transformation: high + term = sum + error exactly.
    void add(double term) {
        const double sum = high + term;
        const double part = sum - high;
        low += (high - (sum - part)) + (term - part);
        high = sum;
    }

    void add(const CompensatedSum& other) {
        add(other.high);
        low += other.low;
    }

    // Where the sum is infinite or NaN, so is the plain sum, while the error is NaN.
    [[nodiscard]] double value() const { return std::isfinite(low) ? high + low : high; }
};

}  // namespace ensemw2s

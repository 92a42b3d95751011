// RUN: qvit-opt %s --threshold --split-input-file | filecheck %s

// CHECK-LABEL: func.func @per_tensor
// round half up of x / 4 for codes -4..3: the code m begins at 4 m - 2
// CHECK: %[[T:.*]] = qvit.constant dense<[-14, -10, -6, -2, 2, 6, 10]> : tensor<7xi32>
// CHECK: qvit.threshold %x, %[[T]] lowest -4 : (tensor<5xi32>, tensor<7xi32>) -> tensor<5xi3>
func.func @per_tensor(%x: tensor<5xi32>) -> tensor<5xi3> {
  %y = qvit.requantize %x by #qvit.real<0.25> rounding half_up : tensor<5xi32> -> tensor<5xi3>
  func.return %y : tensor<5xi3>
}

// -----

// CHECK-LABEL: func.func @half_even
// a tie goes to the even code: 2 begins at its tie, 1 and 3 behind theirs
// CHECK: dense<[3, 6, 11]> : tensor<3xi32>
// CHECK: lowest 0
func.func @half_even(%x: tensor<5xi32>) -> tensor<5xui2> {
  %y = qvit.requantize %x by #qvit.real<0.25> : tensor<5xi32> -> tensor<5xui2>
  func.return %y : tensor<5xui2>
}

// -----

// CHECK-LABEL: func.func @per_channel
// CHECK: dense<[[-3, -1, 1], [-6, -2, 2]]> : tensor<2x3xi32>
// CHECK: lowest -2 axis 1 : (tensor<5x2xi32>, tensor<2x3xi32>) -> tensor<5x2xi2>
func.func @per_channel(%x: tensor<5x2xi32>) -> tensor<5x2xi2> {
  %y = qvit.requantize %x by #qvit.real<[0.5, 0.25]> axis 1 rounding half_up : tensor<5x2xi32> -> tensor<5x2xi2>
  func.return %y : tensor<5x2xi2>
}

// -----

// CHECK-LABEL: func.func @zero_points
// (x - 10) / 2 + 1 in 0..3: 1 begins at 9, 2 at 11, 3 at 13
// CHECK: dense<[9, 11, 13]> : tensor<3xi32>
func.func @zero_points(%x: tensor<5xi32>) -> tensor<5xui2> {
  %y = qvit.requantize %x by #qvit.real<0.5> input_zero_point <10> zero_point <1> rounding half_up : tensor<5xi32> -> tensor<5xui2>
  func.return %y : tensor<5xui2>
}

// -----

// CHECK-LABEL: func.func @dyadic
// CHECK: dense<[-3, -1, 1]> : tensor<3xi32>
func.func @dyadic(%x: tensor<5xi32>) -> tensor<5xi2> {
  %y = qvit.requantize %x by #qvit.dyadic<1, 1> rounding half_up : tensor<5xi32> -> tensor<5xi2>
  func.return %y : tensor<5xi2>
}

// -----

// Bounds of channels: a threshold that all reach, or none does, for what a channel has no code for.
// CHECK-LABEL: func.func @clip
// CHECK: dense<[-14, -10, -6, -2, 2, 6, 10]> : tensor<7xi32>
// CHECK: %[[T:.*]] = qvit.constant dense<[[-1073741824, -1073741824, -6, -2, 2, 1073741824, 1073741824], [-14, -10, -6, -2, 2, 6, 1073741824]]> : tensor<2x7xi32>
// CHECK: qvit.threshold %x, %[[T]] lowest -4 axis 1 : (tensor<5x2xi16>, tensor<2x7xi32>) -> tensor<5x2xi3>
// CHECK-NOT: qvit.clip
func.func @clip(%x: tensor<5x2xi16>) -> tensor<5x2xi3> {
  %y = qvit.requantize %x by #qvit.real<0.25> rounding half_up : tensor<5x2xi16> -> tensor<5x2xi3>
  %z = qvit.clip %y {low = dense<[-2, -4]> : tensor<2xi64>, high = dense<[1, 2]> : tensor<2xi64>, axis = 1 : i64} : tensor<5x2xi3>
  func.return %z : tensor<5x2xi3>
}

// -----

// An operand that may reach any threshold of 32 bits.
// CHECK-LABEL: func.func @clip_of_any
// CHECK: qvit.threshold
// CHECK: qvit.clip
func.func @clip_of_any(%x: tensor<5xi32>) -> tensor<5xi3> {
  %y = qvit.requantize %x by #qvit.real<0.25> rounding half_up : tensor<5xi32> -> tensor<5xi3>
  %z = qvit.clip %y {high = 2 : i64} : tensor<5xi3>
  func.return %z : tensor<5xi3>
}

// -----

// Thresholds that no 32-bit number holds.
// CHECK-LABEL: func.func @far
// CHECK: tensor<1xi64>
func.func @far(%x: tensor<5xi32>) -> tensor<5xui1> {
  %y = qvit.requantize %x by #qvit.real<1.0e-12> rounding half_up : tensor<5xi32> -> tensor<5xui1>
  func.return %y : tensor<5xui1>
}

// -----

// Too many comparators.
// CHECK-LABEL: func.func @wide
// CHECK: qvit.requantize
func.func @wide(%x: tensor<5xi32>) -> tensor<5xi16> {
  %y = qvit.requantize %x by #qvit.real<0.25> rounding half_up : tensor<5xi32> -> tensor<5xi16>
  func.return %y : tensor<5xi16>
}

// -----

// Codes that fall.
// CHECK-LABEL: func.func @negative
// CHECK: qvit.requantize
func.func @negative(%x: tensor<5xi32>) -> tensor<5xi2> {
  %y = qvit.requantize %x by #qvit.real<-0.25> rounding half_up : tensor<5xi32> -> tensor<5xi2>
  func.return %y : tensor<5xi2>
}

// -----

// A divisor that is known at run time only.
// CHECK-LABEL: func.func @divided
// CHECK: qvit.requantize
func.func @divided(%x: tensor<5x2xi32>, %d: tensor<5x1xi32>) -> tensor<5x2xi2> {
  %y = qvit.requantize %x by #qvit.real<0.25> divided_by %d rounding half_up : (tensor<5x2xi32>, tensor<5x1xi32>) -> tensor<5x2xi2>
  func.return %y : tensor<5x2xi2>
}
